"""``doctor``: what is wrong here, what works, and what there is."""

from __future__ import annotations

import importlib.util
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from permafrost.about import find_version, read_version
from permafrost.pipeline.inspection.children import ask_child
from permafrost.pipeline.inspection.engine_trial import WORKS
from permafrost.pipeline.inspection.machine import Machine, examine_machine
from permafrost.pipeline.inspection.packages import (
    EXTRAS,
    Package,
    list_extras,
    list_packages,
    name_pip,
)
from permafrost.pipeline.options import PRECISIONS
from permafrost.pipeline.progress import show_progress
from permafrost.pipeline.tables import Table, list_pairs
from permafrost.stages.frameworks.start import BACKENDS, find_keras_backend

# Each engine with the package that it needs, and Keras' backend where it is on one.
_TRIALS = (
    ("tensorflow", "tensorflow", None),
    ("openvino", "openvino", None),
    *(("keras", backend, backend) for backend in BACKENDS),
)
_AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What came of running a tiny network.

    Attributes
    ----------
    engine : str
        ``keras on jax`` where Keras is to run on something.
    precisions : dict of str to str
        `WORKS`, or why it does not; empty where the engine is not installed.
    gpus : list of str
        That TensorFlow sees.
    problem : str
        Why nothing could be tried.
    """

    engine: str
    precisions: dict[str, str] = field(default_factory=dict)
    gpus: list[str] = field(default_factory=list)
    problem: str = ""

    @property
    def works(self) -> bool:
        """Whether it can be used in any precision."""
        return WORKS in self.precisions.values()


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is wrong, and all that was looked at.

    Attributes
    ----------
    versions : dict of str to str
        Of Python and of this package.
    packages : list of Package
    extras : dict of str to list of str
        What is missing for each.
    machine : Machine
    engines : list of EngineState
    keras_backend : str
        That Keras is set to.
    """

    versions: dict[str, str]
    packages: list[Package]
    extras: dict[str, list[str]]
    machine: Machine
    engines: list[EngineState]
    keras_backend: str

    def list_problems(self) -> list[str]:
        """Say what is wrong, the worst first."""
        problems = [
            f"{one.name} {one.problem}: pip install --upgrade {one.name}"
            for one in self.packages
            if one.problem
        ]
        if not any(one.works for one in self.engines):
            problems.append("no engine works, so nothing can be computed")
        problems += [f"engine {one.engine}: {one.problem}" for one in self.engines if one.problem]
        problems += [
            f"engine {one.engine} does not work in float32: {said}"
            for one in self.engines
            if (said := one.precisions.get("float32", WORKS)) != WORKS
        ]
        return problems + self.machine.list_problems()

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        figures = asdict(self)
        figures["machine"]["cache"] = str(self.machine.cache)
        told = {one.engine: one.precisions for one in self.engines if one.precisions}
        return {"problems": self.list_problems()} | figures | {"engines": told, "gpus": self.gpus}

    @property
    def gpus(self) -> list[str]:
        """The GPUs that TensorFlow sees."""
        return sorted({gpu for one in self.engines for gpu in one.gpus})

    def describe(self) -> list[str | Table]:
        """Return it for a person: what is wrong first."""
        problems = [f"✗ {one}" for one in self.list_problems()] or ["nothing is wrong"]
        versions = [f"{name} {version}" for name, version in self.versions.items()]
        versions += [f"{one.name} {one.version or '(missing)'}" for one in self.packages]
        points = [
            ("versions", ", ".join(versions)),
            *self.machine.list_points(),
            ("GPUs", ", ".join(self.gpus) or "none that TensorFlow sees"),
            ("Keras is set to", self.keras_backend),
        ]
        reasons = [
            f"  {one.engine} {precision}: {said}"
            for one in self.engines
            for precision, said in one.precisions.items()
            if said != WORKS
        ]
        engines = Table(header=("engine", *PRECISIONS), rows=[*map(_list_cells, self.engines)])
        rows = [_describe_extra(*one) for one in self.extras.items()]
        extras = Table(header=("extra", "for", "missing", "get it with"), rows=rows)
        return [*problems, "", list_pairs(points), "", engines, *reasons, "", extras]


def _describe_extra(name: str, lacks: list[str]) -> tuple[str, ...]:
    if not lacks:
        return name, EXTRAS[name], "", "is there"
    more = f", … {len(lacks)} in all" if len(lacks) > 2 else ""
    return name, EXTRAS[name], ", ".join(lacks[:2]) + more, name_pip(name)


def _list_cells(one: EngineState) -> tuple[str, ...]:
    if not one.precisions:
        return (one.engine, *([(one.problem and "fails") or "not installed"] + [""] * 2))
    return (one.engine, *("yes" if one.precisions[name] == WORKS else "no" for name in PRECISIONS))


def diagnose(cache: Path) -> Diagnosis:
    """Look at everything, and really run what is installed; nothing here fails.

    Parameters
    ----------
    cache : Path
        Whose disk counts; it need not be there.
    """
    with (
        ThreadPoolExecutor(_AT_ONCE) as pool,
        show_progress(len(_TRIALS) + 1, unit="checks", note=lambda: "trying engines") as advance,
    ):
        packages = pool.submit(list_packages)
        engines = []
        for found in pool.map(_try_engine, _TRIALS):
            engines.append(found)
            advance(1)
        listed = packages.result()
        advance(1)
    return Diagnosis(
        versions={"permafrost": read_version(), "python": platform.python_version()},
        packages=listed,
        extras=list_extras(),
        machine=examine_machine(cache),
        engines=engines,
        keras_backend=find_keras_backend(),
    )


def _try_engine(trial: tuple[str, str, str | None]) -> EngineState:
    engine, package, backend = trial
    name = f"{engine} on {backend}" if backend else engine
    if importlib.util.find_spec(package) is None and find_version(package) is None:
        return EngineState(engine=name)
    environment = {"KERAS_BACKEND": backend} if backend else None
    answer = ask_child("engine_trial", engine, environment=environment)
    if not answer.objects or answer.reason:
        return EngineState(engine=name, problem=answer.reason)
    return EngineState(engine=name, **answer.objects[-1])
