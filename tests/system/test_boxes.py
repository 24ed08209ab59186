"""Rows that are boxes in images: cropped as Pillow does, known by image and box."""

import hashlib
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from permafrost.cache.store.index import Index
from permafrost.pipeline.cli.main import main
from permafrost.stages.datasets.labels import list_dataset
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.errors import InputError
from permafrost.stages.sources.source import open_source
from tests.helpers.packing import pack_url
from tests.helpers.pictures import encode, exif, photo

BOXES = [(0, 0, 30, 20), (12, 7, 40, 33), (96, 60, 1, 1)]
SIZE = 24


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for which, name in enumerate(("china", "flower")):
        Path(f"photos/{name}.png").write_bytes(encode(photo(which=which), "PNG"))
    return tmp_path


def write_table(rows, file="boxes.csv"):
    lines = [f'photos/{name}.png,{label},"{box}"' for name, label, box in rows]
    Path(file).write_text("\n".join(["path,label,box", *lines]))


def every_box():
    return [
        (name, f"{name}{number}", ",".join(map(str, box)))
        for number, box in enumerate(BOXES)
        for name in ("china", "flower")
    ]


def extract(*options, out="f.h5"):
    arguments = ["--backbone", "none", "--size", SIZE, "--layers", "pixels", "--cache", "cache"]
    assert main([*map(str, ["extract", *options, *arguments, "--out", out])]) == 0
    with h5py.File(out) as opened:
        paths = opened["images/path"].asstr()[()].tolist()
        return paths, opened["features/pixels"][()], opened["images/digest"][()]


def crop(name, box):
    left, top, width, height = box
    part = Image.open(f"photos/{name}.png").crop((left, top, left + width, top + height))
    part = part.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(part.convert("RGB"))


def test_boxes_are_cut_as_pillow_cuts_and_known_by_image_and_box(folder):
    write_table([*every_box(), ("china", "whole", "")])
    paths, pixels, digests = extract("--images", "boxes.csv")
    expected = [crop(name, box) for box in BOXES for name in ("china", "flower")]
    np.testing.assert_array_equal(pixels[:6], expected)
    assert paths[1] == "photos/flower.png#xywh=0,0,30,20"
    assert len({digest.tobytes() for digest in digests}) == 7
    # Without a box a row is what it always was.
    content = Path("photos/china.png").read_bytes()
    assert digests[6].tobytes() == hashlib.sha256(content).digest()
    box = hashlib.sha256(hashlib.sha256(content).digest() + b"#xywh=0,0,30,20").digest()
    assert digests[0].tobytes() == box


def test_the_same_boxes_of_a_coco_file_and_of_a_manifest_are_in_the_cache(folder, capsys):
    write_table(every_box())
    expected = extract("--images", "boxes.csv")
    images = [{"id": f"i{n}", "file_name": f"{n}.png"} for n in ("china", "flower")]
    annotations = [
        {"image_id": f"i{name}", "category_id": 7, "bbox": [x + 0.2, y - 0.2, width, height]}
        for x, y, width, height in BOXES
        for name in ("china", "flower")
    ]
    crowd = {"image_id": "ichina", "category_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    told = {"images": images, "annotations": [*annotations, crowd]}
    told |= {"categories": [{"id": 7, "name": "thing"}], "licenses": [{"id": 7, "name": "CC"}]}
    Path("coco.json").write_text(json.dumps(told))
    assert main(["index", "photos", "--labels", "coco:coco.json", "--out", "m.csv"]) == 0
    capsys.readouterr()
    paths, pixels, _ = extract("--manifest", "m.csv", "--json")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["computed"] == 0
    np.testing.assert_array_equal(pixels, expected[1])
    assert [f"photos/{path}" for path in paths] == expected[0]
    assert set(list_dataset("photos", labels="coco:coco.json").manifest.labels) == {"thing"}


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ("-1,0,5,5", "reaches out of the image of 97 x 61 pixels"),
        ("90,0,8,5", "reaches out of the image of 97 x 61 pixels"),
        ("3,3,0,5", "is empty or reversed"),
        ("3,3,5,-2", "is empty or reversed"),
    ],
)
@pytest.mark.parametrize("isolate", [[], ["--isolate"]])
def test_a_box_that_is_none_costs_its_row(folder, box, reason, isolate):
    write_table([("china", "a", "1,2,30,20"), ("china", "b", box), ("flower", "c", "1,2,30,20")])
    paths, pixels, _ = extract("--images", "boxes.csv", *isolate)
    assert [path.partition("#")[0] for path in paths] == ["photos/china.png", "photos/flower.png"]
    np.testing.assert_array_equal(pixels[1], crop("flower", (1, 2, 30, 20)))
    assert reason in Path("f.h5.failures.csv").read_text()


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "1,2,3,nan", "1e12,0,1,1", "1,2,3,4,5"])
def test_a_cell_that_is_no_box_is_one_line_that_names_it(folder, box):
    write_table([("china", "a", box)])
    with pytest.raises(InputError, match=r"has the box '.*'; write x,y,width,height"):
        list_dataset("boxes.csv")


def test_boxes_of_one_image_are_on_one_side_of_a_split(folder):
    write_table([(name, "x", f"{n},{n},9,9") for n in range(20) for name in ("china", "flower")])
    assert main(["index", "boxes.csv", "--out", "m.csv", "--split", "test=0.5"]) == 0
    manifest = list_dataset("m.csv").manifest
    sides = set(zip(manifest.extra["group"], manifest.splits, strict=True))
    assert len(sides) == 2


def test_tables_beside_images_and_in_archives_may_have_boxes(folder):
    import zipfile

    table = "filename,label,box\nchina,a,0 0 9 9\nchina,b,[1.4; 1.6; 9; 9]\nflower,c,\n"
    Path("boxes.csv").write_text(table)
    expected = ["china.png#xywh=0,0,9,9", "china.png#xywh=1,2,9,9", "flower.png"]
    listed = list_dataset("photos", labels="csv:boxes.csv").manifest
    assert (listed.paths, listed.labels) == (expected, ["a", "b", "c"])
    with zipfile.ZipFile("a.zip", "w") as archive:
        for name in ("china.png", "flower.png"):
            archive.write(f"photos/{name}", name)
        archive.writestr("train.csv", table)
    listed = list_dataset("a.zip").manifest
    assert (listed.paths, listed.labels) == (expected, ["a", "b", "c"])


def test_boxes_are_of_the_image_as_it_is_turned():
    image, box = photo(), (5, 8, 20, 30)
    data = encode(image, "JPEG", quality=95, exif=exif(6))
    turned = Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_270)
    spec = DecodeSpec(height=SIZE, width=SIZE, orient="exif", box=box, decoding="fast")
    expected = turned.crop((5, 8, 25, 38)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    decoded = decode_image(data, spec)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(expected))
    assert decoded.rotated


def test_an_image_is_read_once_for_its_boxes_and_found_again_by_the_index(folder, monkeypatch):
    write_table(every_box()[::2])
    read = []
    source = type(open_source("photos"))
    blocks = source.read_blocks
    monkeypatch.setattr(source, "read_blocks", lambda *a: read.append(a[1]) or blocks(*a))
    _, _, digests = extract("--images", "boxes.csv")
    # Hashed, decoded, and looked at for what fast decoding would give.
    assert len(read) <= 2 + len(digests)
    shard = next(Path("cache").glob("*/*/shard-*.h5"))
    with Index(Path("cache/index.sqlite")) as index:
        assert len(index.files_of([digest.tobytes() for digest in digests])) == len(digests)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["repair", "--cache", "cache"]) == 0
    _, pixels, _ = extract("--images", "boxes.csv")
    np.testing.assert_array_equal(pixels, [crop("china", box) for box in BOXES])


IMAGES = [{"id": 1, "file_name": "china.jpg"}, {"id": 2, "file_name": "flower.jpg"}]
CATEGORIES = [{"id": 1, "name": "roof"}]
ANNOTATION = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"annotations": [ANNOTATION | {"image_id": 9}]}, "id 9, which has no file_name"),
        ({"annotations": [ANNOTATION | {"category_id": 7}]}, "id 7, which has no name"),
        ({"images": [*IMAGES, {"id": 1, "file_name": "b.jpg"}]}, "'b.jpg' have one id, 1"),
        ({"categories": [*CATEGORIES, {"id": 1, "name": "sky"}]}, "'sky' have one id, 1"),
        ({"categories": [{"id": 1, "name": None}]}, "the name None"),
        *(
            ({"annotations": [ANNOTATION | {"bbox": box}]}, "the image 1 has the bbox ")
            for box in (None, [1, 2, 3], ["1", 2, 3, 4], [1, 2, float("nan"), 4], [1e10, 0, 1, 1])
        ),
    ],
)
def test_what_a_coco_file_does_not_tell_or_tells_twice_is_one_line_that_names_it(
    folder, changed, said
):
    told = {"images": IMAGES, "categories": CATEGORIES, "annotations": [ANNOTATION]}
    Path("coco.json").write_text(json.dumps(told | changed))
    with pytest.raises(InputError, match=r"^'coco\.json': .*correct it") as caught:
        list_dataset("photos", labels="coco:coco.json")
    assert said in str(caught.value)


def test_annotations_without_a_box_are_counted(folder, caplog):
    told = {"images": IMAGES, "categories": CATEGORIES}
    others = [{"id": 2, "image_id": 1, "category_id": 1}, ANNOTATION | {"iscrowd": 1}]
    told["annotations"] = [ANNOTATION, *others]
    Path("coco.json").write_text(json.dumps(told))
    assert len(list_dataset("photos", labels="coco:coco.json").manifest) == 1
    assert "1 annotations without a bbox" in caplog.text
    assert "1 boxes of crowds" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{", "[" * 10**5, "\xff", "{}", '{"images": []}'),
        *('{"images": [], "annotations": []}', '{"annotations": [{"image_id": 1, "bbox": [1]}]}'),
    ],
)
def test_a_json_of_something_else_is_one_line(folder, text):
    Path("coco.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"coco\.json") as caught:
        list_dataset("photos", labels="coco:coco.json")
    assert "\n" not in str(caught.value)


def test_boxes_of_images_on_a_server_are_read_there(folder):
    files = {f"{name}.png": Path(f"photos/{name}.png").read_bytes() for name in ("china", "flower")}
    root = pack_url("boxes", files)
    Path("m.csv").write_text(f'path,box,root\nchina.png,"1,2,30,20",{root}\nflower.png,,{root}\n')
    paths, pixels, _ = extract("--manifest", "m.csv")
    assert paths == ["china.png#xywh=1,2,30,20", "flower.png"]
    np.testing.assert_array_equal(pixels[0], crop("china", (1, 2, 30, 20)))


def test_statistics_are_of_boxes(folder, capsys):
    write_table([("china", "a", "1,2,30,20"), ("flower", "b", "3,4,10,40")])
    assert main(["index", "boxes.csv", "--out", "m.csv", "--stats", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["stats"]
    assert (told["width"], told["height"]) == ([10, 20, 30], [20, 30, 40])
    parts = [Image.open("photos/china.png").crop((1, 2, 31, 22))]
    parts += [Image.open("photos/flower.png").crop((3, 4, 13, 44))]
    pixels = np.concatenate([np.asarray(part.convert("RGB")).reshape(-1, 3) for part in parts])
    np.testing.assert_allclose(told["mean"], pixels.mean(0), atol=1e-3)
