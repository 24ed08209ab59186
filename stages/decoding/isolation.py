"""Images decoded in a process of their own: a codec that crashes takes one image with it.

Each thread that decodes owns one child, which is this module run by another interpreter and loads
NumPy and Pillow only. Packages for process pools (pebble, loky, billiard) would not do: their
children are those of `multiprocessing`, which Dask's workers may not have, and answer with pickles.
Here a child's answer is data, never code: pixels of the one size that was asked for, or a line of
text. The two talk over a pair of sockets; the child's end is its standard input, and it ends when
that does, however its owner ended.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import NoReturn, Self

import numpy as np

from permafrost.command import HOME
from permafrost.stages.decoding.choices import Isolation
from permafrost.stages.decoding.decode import Decoded, DecodeSpec, decode_image
from permafrost.stages.errors import DecoderError, ImageError, InputError

# Lengths of the specification and of the file.
_REQUEST = struct.Struct("<IQ")
# Whether pixels follow, or a reason; whether the file asks for turning; the bytes that follow.
_REPLY = struct.Struct("<BBI")
_READY = b"\x06"
_START_TIMEOUT_S = 60
_LONGEST_REASON_BYTES = 1000
_OUT_OF_MEMORY = 3
# A child ends itself this long after its owner's timeout: only where no owner is left to end it.
_ALARM_MARGIN_S = 1
# So much of its time an image loses at most when this process is stopped and goes on.
_LONGEST_WAIT_S = 0.25
_END_TIMEOUT_S = 10
# Each thread of these takes address space, and none has work here.
_NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class IsolatedDecoder:
    """`decode_image` in a child process, which is started at the first image and after each crash.

    For one thread at a time. Ends its child when it is closed, or no longer referred to.
    """

    def __init__(self, limits: Isolation) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = socket.socket()
        self._left_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the child, where there is one."""
        return self._process.pid if self._process else None

    def decode(self, data: bytes, spec: DecodeSpec) -> Decoded:
        """Decode the first picture of an image file, as `decode_image` does.

        Raises
        ------
        ImageError
            The file cannot be read; the message is the reason.
        DecoderError
            The decoder crashed, or needed more time or memory than it may.
        InputError
            No process can be started.
        """
        # A child that has ended since the last image did not end because of this one.
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            return self._exchange(data, spec)
        except TimeoutError:
            self.close()
            raise DecoderError(f"took more than {self.limits.timeout_s:g} s") from None
        except (ConnectionError, EOFError):
            reason = self._explain_end()
            if self._process and self._process.returncode == -signal.SIGALRM:
                # That comes after the timeout, unless both were stopped and this one woke later.
                return self.decode(data, spec)
            raise DecoderError(reason) from None
        except ImageError:
            raise
        except BaseException:
            # The rest of an answer must not be taken for that to the next image.
            self.close()
            raise

    def close(self) -> None:
        """End the child, if there is one."""
        self._socket.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self) -> None:
        self.close()
        self._socket, theirs = socket.socketpair()
        numbers = (self.limits.memory_bytes, self.limits.timeout_s + _ALARM_MARGIN_S)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, *map(str, numbers)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=HOME,
                    env=os.environ | _NO_THREADS,
                    # A signal to the owner's group is the owner's to answer.
                    start_new_session=True,
                )
            self._left_s = _START_TIMEOUT_S
            self._receive(bytearray(len(_READY)))
        except (OSError, EOFError) as error:
            ended = f": {self._explain_end()}" if isinstance(error, EOFError) else f": {error}"
            self.close()
            raise InputError(
                f"cannot start a process that decodes{ended}; run without --isolate"
            ) from error

    def _exchange(self, data: bytes, spec: DecodeSpec) -> Decoded:
        self._left_s = self.limits.timeout_s
        self._socket.settimeout(self.limits.timeout_s)
        told = _write_spec(spec)
        self._socket.sendall(_REQUEST.pack(len(told), len(data)) + told)
        self._socket.sendall(data)
        reply = bytearray(_REPLY.size)
        self._receive(reply)
        is_image, rotated, n_bytes = _REPLY.unpack(reply)
        if not is_image and n_bytes <= _LONGEST_REASON_BYTES:
            reason = bytearray(n_bytes)
            self._receive(reason)
            raise ImageError(reason.decode(errors="replace"))
        pixels = np.empty((spec.height, spec.width, spec.channels), np.uint8)
        if not is_image or n_bytes != pixels.nbytes:
            self.close()
            raise DecoderError("the decoder answered nonsense")
        self._receive(pixels.data.cast("B"))
        pixels.flags.writeable = False
        return Decoded(pixels=pixels, rotated=bool(rotated))

    def _receive(self, buffer: bytearray | memoryview) -> None:
        """Fill a buffer in what is left of the time."""
        left = memoryview(buffer)
        while left:
            # With a timeout of zero a socket does not wait at all, and raises another error.
            wait_s = max(1e-3, min(_LONGEST_WAIT_S, self._left_s))
            started_s = time.monotonic()
            self._socket.settimeout(wait_s)
            try:
                n_bytes = self._socket.recv_into(left)
            except TimeoutError:
                if self._left_s <= wait_s:
                    raise
            else:
                if not n_bytes:
                    raise EOFError
                left = left[n_bytes:]
            # However long it was: this process may have been stopped.
            self._left_s -= min(wait_s, time.monotonic() - started_s)

    def _explain_end(self) -> str:
        assert self._process is not None
        self._socket.close()
        try:
            status = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # it closed its socket, and lives on
            self.close()
            return "the decoder hung up"
        if status == _OUT_OF_MEMORY:
            return f"needed more than {self.limits.memory_bytes / 1e9:g} GB"
        if status < 0:
            return f"the decoder crashed ({signal.Signals(-status).name})"
        return f"the decoder crashed (exit status {status})"


_own = threading.local()


def decode_isolated(data: bytes, spec: DecodeSpec, limits: Isolation) -> Decoded:
    """Decode as `IsolatedDecoder.decode`, in a child of the calling thread that lives as long."""
    decoder: IsolatedDecoder | None = getattr(_own, "decoder", None)
    if decoder is None or decoder.limits != limits:
        decoder = _own.decoder = IsolatedDecoder(limits)
    return decoder.decode(data, spec)


@functools.lru_cache
def _write_spec(spec: DecodeSpec) -> bytes:
    return json.dumps(asdict(spec)).encode()


@functools.lru_cache
def _read_spec(told: bytes) -> DecodeSpec:
    return DecodeSpec(**json.loads(told))


def main(memory_bytes: int, alarm_s: float) -> NoReturn:
    """Answer on standard input, a socket, until it ends."""
    _limit_memory(memory_bytes)
    owner = socket.socket(fileno=0)
    owner.sendall(_READY)
    requests = owner.makefile("rb")
    try:
        while head := requests.read(_REQUEST.size):
            spec_bytes, file_bytes = _REQUEST.unpack(head)
            spec = _read_spec(requests.read(spec_bytes))
            data = requests.read(file_bytes)
            if len(data) < file_bytes:
                break
            signal.setitimer(signal.ITIMER_REAL, alarm_s)
            head, body = _answer(data, spec)
            signal.setitimer(signal.ITIMER_REAL, 0)
            owner.sendall(head)
            owner.sendall(body)
    except (MemoryError, DecoderError):
        # A fresh process is the surest way to get the memory back.
        os._exit(_OUT_OF_MEMORY)
    except (ConnectionError, struct.error):
        pass  # the owner ended in the middle of a request
    os._exit(0)


def _answer(data: bytes, spec: DecodeSpec) -> tuple[bytes, bytes | memoryview]:
    try:
        decoded = decode_image(data, spec)
    except DecoderError:
        raise
    except ImageError as error:
        reason = str(error).encode(errors="replace")[:_LONGEST_REASON_BYTES]
        return _REPLY.pack(0, 0, len(reason)), reason
    pixels = decoded.pixels.data.cast("B")
    return _REPLY.pack(1, decoded.rotated, len(pixels)), pixels


def _limit_memory(memory_bytes: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # A crash is expected here: its gigabytes would help nobody.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
