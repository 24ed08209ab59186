"""The arrays of an npz file, read as the images and labels that they are."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.errors import InputError
from permafrost.stages.sources import npz as arrays
from permafrost.stages.sources.archive import ArchiveSource, load_members
from permafrost.stages.sources.reading import hash_images
from permafrost.stages.sources.source import open_source
from tests.helpers.manifests import build_manifest

DIGITS = (load_digits().images[:30] * 15).astype(np.uint8)
CLASSES = load_digits().target[:30]
PHOTO = load_sample_image("china.jpg")
COLOUR = np.stack([PHOTO[y : y + 32, y : y + 48] for y in range(0, 200, 10)])

SAVINGS: list[Callable[..., None]] = [np.savez, np.savez_compressed]


@pytest.mark.parametrize("save", SAVINGS)
def test_rows_are_decoded_to_their_own_pixels(save: Callable[..., None], tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    save(file, x_train=COLOUR, x_test=DIGITS, x_val=DIGITS[..., None])
    source = open_source(str(file))
    paths = source.list_images()
    assert [len([p for p in paths if p.startswith(s)]) for s in ("test/", "train/", "val/")] == [
        30,
        20,
        30,
    ]
    for number in (0, 7, 19):
        data = source.read(f"train/{number:05d}.ppm")
        assert data == b"P6\n48 32\n255\n" + COLOUR[number].tobytes()
        decoded = decode_image(data, DecodeSpec(height=32, width=48))
        np.testing.assert_array_equal(decoded.pixels, COLOUR[number])
        np.testing.assert_array_equal(Image.open(io.BytesIO(data)), COLOUR[number])
        grey = source.read(f"val/{number:05d}.pgm")
        assert grey == source.read(f"test/{number:05d}.pgm")
        np.testing.assert_array_equal(Image.open(io.BytesIO(grey)), DIGITS[number])


@pytest.mark.parametrize("save", SAVINGS)
def test_the_layout_of_keras_gives_labels_and_splits(
    save: Callable[..., None], tmp_path: Path
) -> None:
    # As cifar10 has them: labels in a column.
    save(
        tmp_path / "a.npz",
        x_train=DIGITS[:20],
        y_train=CLASSES[:20, None],
        x_test=DIGITS[20:],
        y_test=CLASSES[20:, None].astype(np.uint8),
    )
    manifest = build_manifest(str(tmp_path / "a.npz"))
    assert manifest.paths[9:12] == ["test/00009.pgm", "train/00000.pgm", "train/00001.pgm"]
    assert manifest.splits == ["test"] * 10 + ["train"] * 20
    assert manifest.labels == [*map(str, CLASSES[20:]), *map(str, CLASSES[:20])]


def test_the_layout_of_medmnist_gives_labels_and_splits(tmp_path: Path) -> None:
    parts = {"train": slice(0, 10), "val": slice(10, 15), "test": slice(15, 30)}
    images = {f"{split}_images": DIGITS[part] for split, part in parts.items()}
    labels = {f"{split}_labels": CLASSES[part, None] for split, part in parts.items()}
    np.savez_compressed(tmp_path / "a.npz", **images, **labels)
    manifest = build_manifest(str(tmp_path / "a.npz"))
    assert manifest.splits == ["test"] * 15 + ["train"] * 10 + ["val"] * 5
    assert manifest.labels == [str(CLASSES[row]) for row in (*range(15, 30), *range(15))]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array(["cat", 'a "b", c\r', "日本"]), ["cat", 'a "b", c\r', "日本"]),
        (np.array([b"cat", "ü".encode(), b""]), ["cat", "ü", ""]),
        (np.array([0.1, 2.5, -3], np.float32), ["0.1", "2.5", "-3.0"]),
        (np.array([True, False, True]), ["True", "False", "True"]),
        (np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]), ["2", "0", "1"]),
        (np.array([[0, 1, 1], [0, 0, 0], [1.0, 0, 0]]), ["1;2", ";", "0"]),
    ],
)
def test_labels_of_every_kind_become_text(
    labels: np.ndarray, expected: list[str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", x=DIGITS[:3], y=labels)
    manifest = build_manifest(str(tmp_path / "a.npz"))
    assert manifest.paths == ["00000.pgm", "00001.pgm", "00002.pgm"]
    assert manifest.labels == expected
    assert manifest.splits == [""] * 3


def test_arrays_without_labels_are_images_all_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X_train=DIGITS, notes=np.array(["hello"]))
    assert set(build_manifest(str(tmp_path / "a.npz")).labels) == {""}


def test_the_same_pixels_are_the_same_file_however_they_are_packed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=DIGITS)
    np.savez_compressed(tmp_path / "b.npz", x_train=DIGITS[::-1], x_test=DIGITS[..., None])
    source = open_source(str(tmp_path / "a.npz"))
    first = hash_images(source, source.list_images(), workers=4)
    other = open_source(str(tmp_path / "b.npz"))
    paths = other.list_images()
    assert hash_images(other, paths[:30], workers=4) == first
    assert hash_images(other, paths[30:], workers=4) == first[::-1]
    # Golden, since the cache knows images by it.
    assert isinstance(first[0], bytes)
    assert first[0].hex() == "af380edc49e79cf7512a5d9f8a502bc6fa2cb65fb6f1202f6dc6c0a4abc667bf"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"x": DIGITS.astype(np.float32)}, r"x in .* holds float32, and images are of uint8; save"),
        ({"x": DIGITS.astype(">u2")}, "holds >u2|holds uint16"),
        ({"x": COLOUR.transpose(0, 3, 1, 2).copy()}, r"shape \(20, 3, 32, 48\).*x\.transpose"),
        ({"x": DIGITS.reshape(30, -1)}, r"shape \(30, 64\)"),
        ({"x": np.zeros((5, 0, 8), np.uint8)}, r"shape \(5, 0, 8\)"),
        ({"x": np.uint8(3)}, r"shape \(\)"),
        ({"x": np.asfortranarray(DIGITS)}, "column by column; save np.ascontiguousarray"),
        ({"x": np.array([DIGITS, None], object)}, "Python objects, which are not loaded"),
        ({"x": np.zeros(3, [("a", "u1")])}, "Python objects, which are not loaded"),
        ({"x": DIGITS, "y": np.array([{}] * 30)}, "y in .* Python objects.*np.asarray.y, str."),
        ({"x": DIGITS, "y": CLASSES[:7]}, r"y in .* the shape \(7,\); it needs a label for 30"),
        ({"x": DIGITS, "y": np.full((30, 2), 7)}, r"the shape \(30, 2\); .* columns of 0 and 1"),
        ({"x": DIGITS, "y": np.full(30, 1j)}, "y in .* holds complex128; labels are"),
        ({"arr_0": DIGITS}, "no arrays called x_train and y_train.*has: 'arr_0'"),
    ],
)
def test_arrays_of_another_kind_are_one_line_with_a_remedy(
    content: dict[str, np.ndarray], complaint: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **content)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=complaint) as caught:
        open_source(str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)
    assert "a.npz" in str(caught.value)


def pack_claim(file: Path, shape: tuple[int, ...], data: bytes) -> str:
    """Write an array that claims a shape."""
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("x.npy", stream.getvalue() + data)
    return str(file)


@pytest.mark.parametrize(
    "shape", [(10**12, 8, 8), (1, 10**6, 10**6), (-1, 8, 8), (3, -8, -8), (2**70, 1, 1)]
)
def test_claims_that_the_file_does_not_hold_are_refused(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not as long as its shape"):
        open_source(pack_claim(tmp_path / "a.npz", shape, b"0" * 64))


def test_a_header_of_many_lines_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as opened:
        opened.writestr("x.npy", b"\x93NUMPY\1\0\x20\x4e" + b"{" + b" \n" * 9999 + b"}")
    with pytest.raises(InputError, match="no npz archive, or damaged") as caught:
        open_source(str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)


def test_more_rows_than_memory_could_list_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_MAX_ROWS", 1000)
    assert len(open_source(pack_claim(tmp_path / "a.npz", (1000, 1, 1), bytes(1000))).list_images())
    with pytest.raises(InputError, match="more than 1000 images"):
        open_source(pack_claim(tmp_path / "a.npz", (1001, 1, 1), bytes(1001)))


def test_negative_shapes_of_the_right_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        open_source(pack_claim(tmp_path / "a.npz", (-4, -4, 4), bytes(64)))


def test_a_compressed_array_is_inflated_once_and_beside_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = DIGITS.repeat(20, axis=0).repeat(16, axis=1).repeat(16, axis=2)  # 10 MB
    np.savez_compressed(tmp_path / "a.npz", x=images)
    source = ArchiveSource(str(tmp_path / "a.npz"))
    paths = source.list_images()
    calls = []
    inflate = arrays._inflate
    monkeypatch.setattr(arrays, "_inflate", lambda *of: calls.append(1) or inflate(*of))
    tracemalloc.start()
    try:
        for path in paths[::10]:
            source.read(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(calls) == 1
    assert peak_bytes < images.nbytes / 2
    assert not [name for name in tmp_path.iterdir() if name.name != "a.npz"]


def test_what_cannot_be_inflated_fails_each_row_and_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    np.savez_compressed(file, x=rng.integers(0, 256, (50, 32, 32), np.uint8), x_test=DIGITS)
    content = bytearray(file.read_bytes())
    content[20_000] ^= 1
    file.write_bytes(content)
    calls = []
    inflate = arrays._inflate
    monkeypatch.setattr(arrays, "_inflate", lambda *of: calls.append(1) or inflate(*of))
    source = open_source(str(file))
    for row in range(3):
        with pytest.raises(OSError, match=r"Bad CRC-32.*a\.npz!0000"):
            source.read(f"{row:05d}.pgm")
    assert len(calls) == 1
    assert source.read("test/00000.pgm").endswith(DIGITS[0].tobytes())


def test_a_full_disk_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=DIGITS)
    usage = arrays.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"no room to unpack.*set TMPDIR"):
        open_source(str(tmp_path / "a.npz")).read("00000.pgm")


def test_a_rewritten_npz_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, x=DIGITS)
    before = load_members(str(file))
    source = ArchiveSource(str(file))
    first, prints = source.read("00000.pgm"), source.fingerprints(["00000.pgm"])
    np.savez_compressed(file, x=DIGITS[5:])
    assert load_members(str(file)) is not before
    assert source.read("00000.pgm") != first
    assert source.fingerprints(["00000.pgm"]) != prints
