"""What a program computes, and how programs share devices and memory."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.backbones.layers import LayerFacts, LayerSpec
from permafrost.stages.errors import InputError, in_one_line
from permafrost.stages.shortcuts.differences import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSpec:
    """What a program computes, besides the network.

    Attributes
    ----------
    layers : tuple of LayerSpec
        Outputs, in this order.
    preprocess : str
        As `stages.backbones.preprocessing.preprocess` takes it.
    view : str
        As `stages.backbones.preprocessing.turn` takes it.
    precision : str
        Of the network's products: ``"float32"``, ``"bfloat16"`` or ``"float16"``. Preprocessing,
        what meets its pixels first, depthwise convolutions, pooling and the outputs are float32 in
        any case.
    """

    layers: tuple[LayerSpec, ...]
    preprocess: str
    view: str = "identity"
    precision: str = "float32"


def list_sources(spec: ProgramSpec, network: LayerFacts) -> list[str]:
    """List the layers of a network that a program is made of, each once."""
    sources = (layer.list_sources(network.find_tokens(layer.layer)) for layer in spec.layers)
    return list(dict.fromkeys(name for names in sources for name in names))


class OutOfMemoryError(MemoryError):
    """The batch does not fit the device's memory; a smaller one may."""


def refuse_run(engine: str, error: Exception) -> InputError:
    """Return what a network is refused with that an engine cannot run on this machine."""
    # TensorFlow tells before and after it where in the Python code an operation was made.
    text = re.split(r"\s*(?:Original stack trace|\[\[\{\{node)", str(error))[0].strip()
    reason = re.split(r"\nNode: |\n\n", text)[-1]
    advice = ""
    if re.search("NHWC|channels_last", str(error)):
        advice = "; build the network with data_format='channels_last', or run it on a GPU"
    return InputError(f"{engine} cannot run this network here: {in_one_line(reason)}{advice}")


class Program(Protocol):
    """A backbone compiled by an engine, with its preprocessing and pooling."""

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run one batch.

        Parameters
        ----------
        batch : ndarray of uint8, shape (n, height, width, channels)
            Any n.

        Returns
        -------
        list of ndarray of float32, each (n, *shape)
            One for each of the spec's layers.

        Raises
        ------
        OutOfMemoryError
        """

    def close(self) -> None:
        """Release the device memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which way is the fastest, and what was measured.

    Attributes
    ----------
    way : str
    images_per_second : dict of str to float
        Of each way that was tried; 0 where its numbers differ too much.
    untried : sequence of str
        Ways for which there was too little work.
    """

    way: str
    images_per_second: dict[str, float] = field(default_factory=dict)
    untried: Sequence[str] = ()

    def describe(self) -> str:
        """Say it in a line."""
        told = ", ".join(
            f"{way} {rate:.1f}" if rate else f"{way} not close enough"
            for way, rate in sorted(self.images_per_second.items(), key=lambda one: -one[1])
        )
        return f"program: {self.way}, as timed on this machine (images/s: {told})"


class Keep(Protocol):
    """A place for bytes that are slow to make and depend on network and spec alone."""

    def load(self) -> NDArray[np.uint8] | None:
        """Return what was saved, byte for byte; None where there is nothing."""

    def save(self, values: NDArray[np.uint8]) -> None:
        """Keep bytes, shape (n,), for another process; where that cannot be, do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a program is built for.

    Attributes
    ----------
    batch_size, n_images : int
    way : str, optional
        Of those that `stages.shortcuts.choice` lists: what the program is to be. Without it, the
        fastest is found where there is work enough.
    note : callable, optional
        Is told what was found.
    keep : Keep, optional
        For what the engine derives from the network.
    """

    batch_size: int
    n_images: int
    way: str | None = None
    note: Callable[[Verdict], None] = lambda _verdict: None
    keep: Keep | None = None


class SharedPrograms:
    """The same program on several devices as one: a batch goes to the device that is free.

    Parameters
    ----------
    programs : sequence of Program
        As many threads may call at once.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self._programs = programs
        self._free: SimpleQueue[Run] = SimpleQueue()
        for program in programs:
            self._free.put(program)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run one batch, see `Program`."""
        program = self._free.get()
        try:
            return program(batch)
        finally:
            self._free.put(program)

    def close(self) -> None:
        """Release the device memory."""
        for program in self._programs:
            program.close()


class HalvingProgram:
    """A program that goes on with smaller batches once one did not fit the device's memory.

    Parameters
    ----------
    program : callable
        As `Program`: raises `OutOfMemoryError`.
    n_at_once : int
        How many batches the program may be called with at once.
    """

    def __init__(self, program: Run, *, n_at_once: int = 1) -> None:
        self._program = program
        self._largest: int | None = None
        self.n_at_once = n_at_once

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run one batch, in pieces if need be, see `Program`."""
        step = self._largest or max(1, len(batch))
        try:
            pieces = [
                self._program(batch[start : start + step]) for start in range(0, len(batch), step)
            ]
        except OutOfMemoryError:
            if step == 1:
                raise
            self._largest = step // 2
            _log.warning("out of memory with %d images at once; going on with %d", step, step // 2)
            return self(batch)
        if len(pieces) == 1:
            return pieces[0]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def close(self) -> None:
        """Release the device memory, where that takes more than to forget the program."""
        getattr(self._program, "close", lambda: None)()


def fill_up(batch: np.ndarray, n_images: int) -> np.ndarray:
    """Repeat the last image of a batch that is too short, for programs of one size."""
    missing = n_images - len(batch)
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
