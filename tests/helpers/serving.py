"""Real servers on loopback: moto's S3, Python's own web server, and a proxy that misbehaves."""

from __future__ import annotations

import functools
import http.client
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from permafrost.stages.sources.remote import _make_filesystem

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@functools.cache
def serve_s3() -> str:
    """Run moto's S3 server for as long as this process lives; its address."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return "http://{}:{}".format(*server.get_host_and_port())


def upload(address: str, bucket: str, files: Mapping[str, bytes]) -> str:
    """Put files into a bucket of their own; its URL."""
    import boto3

    keys = {name.lower(): value for name, value in CREDENTIALS.items() if "KEY" in name}
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=bucket)
    for path, content in files.items():
        client.put_object(Bucket=bucket, Key=f"photos/{path}", Body=content)
    return f"s3://{bucket}/photos"


@contextmanager
def serve_bucket(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve files from S3, which the environment then points to; their URL."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": serve_s3()}.items():
            patch.setenv(name, value)
        _make_filesystem.cache_clear()
        yield upload(serve_s3(), "bucket", files)
        _make_filesystem.cache_clear()


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve a folder as ``python -m http.server`` does; its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class Proxy(ThreadingHTTPServer):
    """Forwards requests, except as `fault` says.

    Attributes
    ----------
    fault : callable
        (path, how many requests for it came before) → "" to forward, a status to answer with, or
        "cut" (half of the body), "drip" (a byte now and then), "reset" (no answer at all).
    seen : Counter
        Requests for each path.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarding)
        self.target = target.removeprefix("http://")
        self.fault: Callable[[str, int], str] = lambda _path, _before: ""
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Clients that give up are expected here."""


class _Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        with self.server.lock:
            before = self.server.seen[path]
            self.server.seen[path] += 1
        fault = self.server.fault(path, before)
        if fault == "reset":
            self.close_connection = True
            return
        if fault.isdigit():
            self.answer(int(fault), {}, b"<Error><Code>Broken</Code><Message>no</Message></Error>")
            return
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        connection.request(self.command, self.path, headers=dict(self.headers))
        response = connection.getresponse()
        body = response.read()
        names = _KEPT if self.command == "GET" else (*_KEPT, "Content-Length")
        kept = {name: value for name, value in response.getheaders() if name in names}
        self.answer(response.status, kept, body, fault=fault)
        connection.close()

    do_HEAD = do_GET  # noqa: N815

    def answer(
        self, status: int, headers: Mapping[str, str], body: bytes, *, fault: str = ""
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "drip":
            self.close_connection = True
            for number in range(len(body)):
                self.wfile.write(body[number : number + 1])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


_KEPT = ("ETag", "Last-Modified", "Content-Type", "Content-Range", "x-amz-request-id")


@contextmanager
def serve_proxy(target: str) -> Iterator[Proxy]:
    """Run a proxy before a server."""
    with Proxy(target) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


@contextmanager
def serve_silence(folder: Path, n_answers: int) -> Iterator[tuple[str, threading.Event]]:
    """Serve a folder's lists and some of its photos; accept all further requests, and never answer.

    Yields
    ------
    str
        The URL.
    threading.Event
        Set as soon as there is a request that is not answered.
    """
    is_silent, left = threading.Event(), iter(range(n_answers))

    class Mute(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            is_photo = self.path.endswith(".jpg")
            if not is_photo or next(left, None) is not None:
                super().do_GET()
            else:
                is_silent.set()
                self.rfile.read()  # until the client hangs up

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Mute, directory=str(folder)))
    server.daemon_threads, server.block_on_close = True, False
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", is_silent
        finally:
            server.shutdown()
