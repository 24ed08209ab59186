"""All engines, and how each builds the program of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from permafrost.stages.engines.program import (
    HalvingProgram,
    Program,
    ProgramSpec,
    SharedPrograms,
    Work,
)
from permafrost.stages.frameworks.start import (
    find_keras_backend,
    keep_freed_memory,
    list_gpus,
    start_keras,
)

if TYPE_CHECKING:
    from permafrost.stages.backbones.network import Network


def open_reference(network: Network, spec: ProgramSpec) -> Program:
    """Build what other programs are compared with; `name_reference` names it."""
    if find_keras_backend() == "tensorflow":
        from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram

        return TensorFlowProgram(network, spec)
    from permafrost.stages.engines.keras_engine import KerasProgram

    return KerasProgram(network, spec, compiled=False)


def _build_tensorflow(load: Callable[[], Network], spec: ProgramSpec, work: Work) -> HalvingProgram:
    from permafrost.stages.engines.choosing import ChoosingProgram
    from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
    from permafrost.stages.shortcuts.choice import (
        NO_SHORTCUTS,
        find_shortcuts,
        list_ways,
        simplify,
    )

    network, gpus = load(), list_gpus()
    known = network.ways  # They are looked for in all layers.
    devices: list[str | None] = [*gpus] or [None]

    def build(way: str) -> Program:
        shortcuts = find_shortcuts(way, spec.precision) if known else NO_SHORTCUTS
        return SharedPrograms(
            [TensorFlowProgram(network, spec, shortcuts=shortcuts, device=one) for one in devices]
        )

    ways = list_ways(spec.precision, normalizes=network.normalizes, on_gpu=bool(gpus))
    differing = list(dict.fromkeys(simplify(way, known) for way in ways))
    if work.way is not None:
        program: Program = build(work.way)
    else:
        program = ChoosingProgram(
            build,
            differing,
            batch_size=work.batch_size,
            n_images=work.n_images,
            is_checked=network.normalizes and spec.precision == "float32",
            note=work.note,
        )
    return HalvingProgram(program, n_at_once=len(devices))


def _build_openvino(load: Callable[[], Network], spec: ProgramSpec, work: Work) -> HalvingProgram:
    from permafrost.stages.engines.openvino_engine import OpenVinoProgram

    keep_freed_memory()  # TensorFlow, which would see to it, may stay away.
    return HalvingProgram(OpenVinoProgram(load, spec, work.keep), n_at_once=2)


def _build_keras(load: Callable[[], Network], spec: ProgramSpec, work: Work) -> HalvingProgram:
    from permafrost.stages.engines.keras_engine import KerasProgram

    return HalvingProgram(KerasProgram(load(), spec, batch_size=work.batch_size))


# Each is given what loads the network, which need not be called.
BUILDERS: dict[str, Callable[[Callable[[], Network], ProgramSpec, Work], HalvingProgram]] = {
    "tensorflow": _build_tensorflow,
    "openvino": _build_openvino,
    "keras": _build_keras,
}
ENGINES = tuple(BUILDERS)


def start_engine(engine: str) -> None:
    """Import what an engine's programs take in any case; OpenVINO with a kept model takes no Keras.

    Raises
    ------
    InputError
        It is not installed.
    """
    if engine != "openvino":
        start_keras()


def name_reference() -> str:
    """Say what others are compared with.

    That is TensorFlow where Keras runs on it. A process has one backend of Keras: on another one,
    it is Keras itself, running one operation after the other, without a compiler.
    """
    backend = find_keras_backend()
    return "tensorflow" if backend == "tensorflow" else f"uncompiled keras-{backend}"
