"""The linear probe of every cached layer: a sweep, with interval and LogME of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.models.fit import open_bench
from permafrost.pipeline.sweeps.intervals import bound_score, count_groups
from permafrost.pipeline.sweeps.leaderboard import Entry, Leaderboard
from permafrost.pipeline.sweeps.plan import RowsPlan
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.tasks.task import make_candidate
from permafrost.stages.advice.logme import decompose, encode_targets, maximise_evidence
from permafrost.stages.backbones.layers import parse_layer_spec
from permafrost.stages.datasets.targets import REGRESSION
from permafrost.stages.evaluation.comparison import Resamples
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.evaluation.intervals import Interval
from permafrost.stages.evaluation.metrics import PRIMARY

# The head of the probe, its setting, and the values that are tried on every layer.
GRIDS: Mapping[str, tuple[str, str, tuple[float, ...]]] = {
    "values": ("ridge", "alpha", (1.0, 10.0, 100.0, 1000.0)),
    "classes": ("logreg", "C", (0.001, 0.01, 0.1, 1.0)),
}
# The eigenvalues of as many rows take a third of a second, those of 10,000 minutes.
MOST_LOGME_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One layer and what was measured of it.

    Attributes
    ----------
    entry : Entry
        The best probe on it.
    interval : tuple of float, optional
        95 % of the score.
    """

    stored: StoredLayer
    n_values: int
    entry: Entry
    score: float
    interval: Interval | None
    logme: float

    @property
    def expression(self) -> str:
        """What the sweep calls the layer."""
        return self.entry.configuration.layer

    @property
    def layer(self) -> str:
        """The network's layer, without pooling."""
        return self.stored.spec.layer


def choose_grid(task: str) -> tuple[str, str, tuple[float, ...]]:
    """Return the head of the probe for a task, its setting, and the values to try."""
    return GRIDS["values" if task == REGRESSION else "classes"]


def list_probes(task: str) -> list[Candidate]:
    """List the linear heads that are tried on every layer."""
    kind, setting, values = choose_grid(task)
    return [make_candidate(kind, {setting: value}, task=task) for value in values]


def list_probed(files: FeatureFiles) -> dict[str, StoredLayer]:
    """List every layer of every file by an expression that stands for it alone.

    Maps are averaged, so that layers of all depths are compared alike; the images themselves are
    those of the first file that has them.
    """
    found: dict[str, StoredLayer] = {}
    for number, file in enumerate(files.opened):
        for name in file.layers:
            spec = parse_layer_spec(name)
            if spec.is_pixels and any(one.spec.is_pixels for one in found.values()):
                continue
            is_map = spec.pooling == "none" and not spec.is_pixels and len(file.shape(name)) > 1
            text = f"{name}:avg" if is_map else name
            if text not in file.layers or not is_map:
                found[_name_alone(files, number, text)] = files.find_layer(number, text)
    if not found:
        raise PipelineError(f"{files.name} has no layer; extract some")
    return found


def _name_alone(files: FeatureFiles, number: int, text: str) -> str:
    """Return what the files call a layer of one of them, as ``vgg16/fc1`` where several have it."""
    path = files.opened[number].path
    for name in (text, f"{path.stem}/{text}", f"{path.absolute().parent.name}/{text}"):
        if [one.file for one in files.find_layers(name)] == [number]:
            return name
    raise PipelineError(
        f"{str(path)!r} shares the layer {text!r} and its own name with another file; rename one"
    )


def measure_layers(
    files: FeatureFiles, rows: RowsPlan, layers: Mapping[str, StoredLayer], board: Leaderboard
) -> list[Probed]:
    """Add interval and LogME to the best probe of each layer, best first.

    A layer without any probe that was fitted has no place.
    """
    name, data = f"{PRIMARY[board.task]}_mean", rows.data
    best: dict[str, Entry] = {}
    for entry in board.entries:
        if entry.summary.get(name) is not None:
            best.setdefault(entry.configuration.layer, entry)
    folds, held = rows.make_folds(files), rows.labelled.folds
    sizes = count_groups(folds, Resamples(folds, files.groups[held], seed=data.seed))
    if len(held) > MOST_LOGME_ROWS:
        rng = np.random.default_rng(data.seed)
        held = np.sort(rng.choice(held, MOST_LOGME_ROWS, replace=False))
    outputs = encode_targets(rows.labelled.targets.select(held))
    found = []
    for layer, entry in best.items():
        matrix = open_bench(data, files, [layers[layer]]).matrix
        spectrum = decompose(matrix, held, outputs, n_bytes=data.memory_bytes // 4)
        found.append(
            Probed(
                stored=layers[layer],
                n_values=matrix.shape[1],
                entry=entry,
                score=entry.summary[name] or 0.0,
                interval=bound_score(entry.folds, sizes),
                logme=float(maximise_evidence(spectrum).mean()),
            )
        )
    return found
