"""URLs, against real servers that throttle, stumble, drip, cut off, and go away."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from permafrost.stages.errors import InputError, UnreachableError
from permafrost.stages.sources import remote
from permafrost.stages.sources import retries as patience
from permafrost.stages.sources.reading import hash_images, start_reading
from permafrost.stages.sources.remote import RemoteSource
from permafrost.stages.sources.source import find_file, open_source
from tests.helpers import packing
from tests.helpers.answers import Command
from tests.helpers.serving import (
    CREDENTIALS,
    Proxy,
    serve_folder,
    serve_proxy,
    serve_s3,
    upload,
)

FILES = {f"{'ab'[number % 2]}/{number}.png": b"%d" % number * 3000 for number in range(5)}


@pytest.fixture
def s3() -> str:
    return serve_s3()


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Put a proxy before S3, and wait no longer between attempts than a test can."""
    monkeypatch.setattr(patience, "READ_WAITS_S", (0.01,) * 4)
    monkeypatch.setattr(patience, "LIST_WAITS_S", (0.01,) * 2)
    with serve_proxy(s3) as server:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": server.address}.items():
            monkeypatch.setenv(name, value)
        remote._make_filesystem.cache_clear()
        yield server
        remote._make_filesystem.cache_clear()


@pytest.fixture
def url(s3: str, proxy: Proxy, request: pytest.FixtureRequest) -> str:
    return upload(s3, hashlib.sha1(request.node.name.encode()).hexdigest(), FILES)


def read_all(source: RemoteSource) -> dict[str, bytes]:
    return {path: source.read(path) for path in source.list_images()}


def test_one_listing_tells_all_names_sizes_and_versions(url: str, proxy: Proxy, s3: str) -> None:
    source = open_source(url)
    assert source.list_images() == sorted(FILES)
    prints = source.fingerprints([*FILES, "none.png"])
    assert isinstance(prints.pop(), FileNotFoundError)
    assert len(set(prints)) == len(FILES)
    assert sum(proxy.seen.values()) == 1
    # An upload of other bytes is another fingerprint, one of the same bytes the same.
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    bucket = url.split("/")[2]
    client.put_object(Bucket=bucket, Key="photos/b/1.png", Body=b"other")
    client.put_object(Bucket=bucket, Key="photos/b/3.png", Body=FILES["b/3.png"])
    again = open_source(url).fingerprints(list(FILES))
    changed = [path for path, old, new in zip(FILES, prints, again, strict=True) if old != new]
    assert changed == ["b/1.png"]


def test_each_image_is_one_request(url: str, proxy: Proxy) -> None:
    source = open_source(url)
    proxy.seen.clear()
    assert read_all(source) == FILES
    travelled = pickle.loads(pickle.dumps(source))
    assert {path: travelled.read(path) for path in FILES} == FILES
    assert set(proxy.seen.values()) == {2}


def test_keys_are_urls_and_find_their_file_again(url: str) -> None:
    source = open_source(url + "/")
    (key,) = source.file_keys(["a/2.png"])
    assert key == url + "/a/2.png"
    found = find_file(key)
    assert found is not None
    assert found[0].read(found[1]) == FILES["a/2.png"]
    assert found[0].fingerprints([found[1]]) == source.fingerprints(["a/2.png"])
    gone = find_file(url + "/a/none.png")
    assert gone is not None
    assert isinstance(*gone[0].fingerprints([gone[1]]), FileNotFoundError)


def test_an_empty_object_is_empty(s3: str, proxy: Proxy) -> None:
    source = open_source(upload(s3, "hollow", {"0.png": b""}))
    assert source.read("0.png") == b""


@pytest.mark.parametrize("fault", ["503", "500", "429", "cut", "reset"])
def test_what_passes_is_waited_for(fault: str, url: str, proxy: Proxy) -> None:
    proxy.fault = lambda _path, before: fault if before < 3 else ""
    source = _open_calmly(url, proxy)
    assert read_all(source) == FILES
    assert set(proxy.seen.values()) == {4}


def _open_calmly(url: str, proxy: Proxy) -> RemoteSource:
    """List without faults."""
    fault, proxy.fault = proxy.fault, lambda _path, _before: ""
    source = open_source(url)
    assert isinstance(source, RemoteSource)
    proxy.fault = fault
    proxy.seen.clear()
    return source


def test_a_listing_is_tried_again_too(url: str, proxy: Proxy) -> None:
    proxy.fault = lambda _path, before: "503" if before < 2 else ""
    assert open_source(url).list_images() == sorted(FILES)


def test_what_does_not_pass_costs_that_image_alone(url: str, proxy: Proxy) -> None:
    source = _open_calmly(url, proxy)
    proxy.fault = lambda path, _before: "500" if path.endswith("/3.png") else ""
    paths = source.list_images()
    digests = hash_images(source, paths, workers=2)
    for path, digest in zip(paths, digests, strict=True):
        if path == "b/3.png":
            assert isinstance(digest, OSError)
        else:
            assert digest == hashlib.sha256(FILES[path]).digest()
    assert max(proxy.seen.values()) == 5


def test_refusals_are_not_asked_for_again(url: str, proxy: Proxy) -> None:
    source = _open_calmly(url, proxy)
    proxy.fault = lambda path, _before: "403" if path.endswith("/3.png") else ""
    with pytest.raises(OSError):
        source.read("b/3.png")
    with pytest.raises(FileNotFoundError):
        source.read("none.png")
    assert set(proxy.seen.values()) == {1}


def test_an_answer_that_never_ends_is_given_up(
    url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(patience, "READ_WAITS_S", (0.01,))
    source = _open_calmly(url, proxy)
    proxy.fault = lambda path, _before: "drip" if path.endswith("/3.png") else ""
    with pytest.raises(OSError):
        source.read("b/3.png")
    assert source.read("b/1.png") == FILES["b/1.png"]


def test_a_bucket_that_does_not_answer_or_exist_is_one_line(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"cannot list 's3://no-such-bucket/x': No such file"):
        open_source("s3://no-such-bucket/x")
    proxy.fault = lambda _path, _before: "reset"
    with pytest.raises(InputError, match=r"cannot list .*; check the address") as caught:
        open_source("s3://bucket/photos")
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    remote._make_filesystem.cache_clear()
    with pytest.raises(InputError, match=r"Unable to locate credentials; check"):
        open_source("s3://bucket/photos")


def test_nobody_waits_for_a_listing_where_nobody_answers() -> None:
    with pytest.raises(
        InputError, match=r"cannot list 'http://127.0.0.1:9/x': .*check the address"
    ):
        open_source("http://127.0.0.1:9/x")
    asked = []

    def ask() -> None:
        asked.append(1)
        raise TimeoutError("no answer")

    with pytest.raises(InputError, match="no answer"):
        patience.retry_listing(ask, "s3://bucket")
    assert len(asked) == 1


def test_a_busy_server_that_lists_nothing_may_answer_later(proxy: Proxy) -> None:
    proxy.fault = lambda _path, _before: "503"
    with pytest.raises(UnreachableError, match=r"cannot list 's3://bucket/photos'"):
        open_source("s3://bucket/photos")


def test_an_outage_ends_the_run_in_one_line(
    url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _open_calmly(url, proxy)
    monkeypatch.setattr(patience, "OUTAGE_S", 0)
    proxy.fault = lambda _path, _before: "reset"
    with pytest.raises(UnreachableError, match="run again once the server answers"):
        hash_images(source, source.list_images(), workers=2)
    proxy.fault = lambda _path, _before: ""
    assert source.read("b/1.png") == FILES["b/1.png"]


def test_objects_larger_than_an_image_can_be_are_not_fetched(
    url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _open_calmly(url, proxy)
    monkeypatch.setattr("permafrost.stages.sources.folder.MAX_FILE_BYTES", 2000)
    monkeypatch.setattr(remote, "MAX_FILE_BYTES", 2000)
    with pytest.raises(OSError, match="larger than"):
        source.read("b/3.png")
    assert not proxy.seen
    # A worker has no listing: it asks for no more than it would take.
    with pytest.raises(OSError, match="larger than"):
        RemoteSource(url).read("b/3.png")


def test_batches_are_read_ahead_in_order(url: str) -> None:
    source = open_source(url)
    paths = [*source.list_images(), "none.png", "a/0.png"] * 5
    for path, read in zip(paths, start_reading(source, paths), strict=True):
        if path == "none.png":
            with pytest.raises(FileNotFoundError):
                read()
        else:
            assert read() == FILES[path]


def test_a_forked_process_reads_by_itself(url: str) -> None:
    source = open_source(url)
    source.read("b/1.png")
    process = os.fork()
    if process == 0:
        os._exit(0 if source.read("b/3.png") == FILES["b/3.png"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_a_missing_package_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None; sys.modules['aiohttp'] = None\n"
        "from permafrost.stages.sources.source import open_source\n"
        "for url in ('s3://b/p', 'https://h/p'):\n"
        "    try: open_source(url)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = said.stdout.splitlines()
    assert len(lines) == 2
    assert "InputError" in lines[0] and 'pip install "permafrost[s3]"' in lines[0]
    assert "InputError" in lines[1] and 'pip install "permafrost[http]"' in lines[1]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.npz", "a.csv", "a.tar.gz"])
def test_archives_and_tables_at_a_url_are_to_be_downloaded(name: str) -> None:
    with pytest.raises(InputError, match=r"is not a folder; .*download it"):
        open_source(f"s3://bucket/{name}")


def test_unknown_schemes_are_one_line() -> None:
    with pytest.raises(InputError, match=r"cannot open 'foo://x': .*foo"):
        open_source("foo://x")


def test_a_file_url_is_the_path(tmp_path: Path) -> None:
    packing.fill(tmp_path, {"cat/1.png": b"1"})
    assert open_source(f"file://{tmp_path}") == open_source(str(tmp_path))


def test_a_web_server_is_asked_for_each_files_version(tmp_path: Path) -> None:
    packing.fill(tmp_path, FILES | {"ü ?#%/x,y.png": b"odd"})
    with serve_folder(tmp_path) as address:
        source = open_source(address)
        assert read_all(source) == FILES | {"ü ?#%/x,y.png": b"odd"}
        odd = find_file(*source.file_keys(["ü ?#%/x,y.png"]))
        assert odd is not None
        assert odd[0].read(odd[1]) == b"odd"
        prints = source.fingerprints(["a/0.png", "b/1.png"])
        far = find_file(*source.file_keys(["a/0.png"]))
        assert far is not None
        assert far[0].fingerprints([far[1]]) == prints[:1]
        assert source.fingerprints(["a/0.png", "b/1.png"]) == prints
        os.utime(tmp_path / "b/1.png", (1, 1))
        assert open_source(address).fingerprints(["a/0.png"]) == prints[:1]
        assert open_source(address).fingerprints(["b/1.png"]) != prints[1:]


def test_a_server_that_tells_no_version_is_never_believed_to_be_unchanged(tmp_path: Path) -> None:
    packing.fill(tmp_path, {"1.png": b"1"})
    with serve_folder(tmp_path) as address, serve_proxy(address) as proxy:
        proxy.fault = lambda path, _before: "404" if path.endswith("1.png") else ""
        source = open_source(proxy.address)
        assert source.fingerprints(["1.png"]) != source.fingerprints(["1.png"])


def test_a_run_from_a_bucket_resumes_where_its_server_left(
    proxy: Proxy,
    photos: Path,
    extract: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {str(file.relative_to(photos)): file.read_bytes() for file in photos.rglob("*.jpg")}
    url = upload(f"http://{proxy.target}", "run", files)
    monkeypatch.setattr(patience, "OUTAGE_S", 0)
    # Hashing reads each once; then the server goes after half of the images.
    proxy.fault = lambda path, before: "reset" if before and path[-6:-4] > "02" else ""
    answer = extract("--batch-size", 2, "--workers", 1, images=url)
    assert answer.status == 75
    assert "run again once the server answers" in answer.err
    assert "Traceback" not in answer.err
    proxy.fault = lambda _path, _before: ""
    figures = extract(images=url).figures
    assert figures["failed"] == 0
    assert 0 < figures["computed"] < len(files)
    assert extract(images=url).figures["computed"] == 0
    # The same images on the disk are known, and the values the same.
    assert extract(images=photos, out=tmp_path / "local.h5").figures["computed"] == 0
    import h5py
    import numpy as np

    with h5py.File(tmp_path / "features.h5") as far, h5py.File(tmp_path / "local.h5") as near:
        assert far["images"].attrs["root"] == url
        assert list(far["images/path"]) == list(near["images/path"])
        np.testing.assert_array_equal(far["features/last:avg"], near["features/last:avg"])
