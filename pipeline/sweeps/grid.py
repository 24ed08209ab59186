"""What a sweep tries: layers × poolings × heads × settings, each combination once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.sweeps.transfer import is_from_scratch
from permafrost.pipeline.tasks.rows import JOINED_BY, FeatureFiles
from permafrost.pipeline.tasks.task import (
    TaskOptions,
    decide_scaling,
    digest_fit,
    digest_rows,
    make_candidate,
)
from permafrost.pipeline.tasks.views import list_views
from permafrost.stages.backbones.layers import LayerSpec, parse_layer_spec
from permafrost.stages.backbones.pooling import POOLINGS, is_pooling
from permafrost.stages.errors import UnknownNameError
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.heads import HEADS, check_retired, check_task

# Among the settings of a head, what says on which layers it is tried.
LAYERS = "layers"
_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One head on one layer.

    Attributes
    ----------
    settings : str
        What sets the head apart, as text: ``C=0.1 scale=l2``.
    key : str
        Digest of these and of all that it is fitted on.
    is_from_scratch : bool
        Whether nothing in it was learnt from other images.
    """

    layer: str
    candidate: Candidate
    settings: str
    key: str
    is_from_scratch: bool = False

    @property
    def head(self) -> str:
        """The head as text: ``logreg C=0.1``."""
        return f"{self.candidate.kind} {self.settings}".strip()

    @property
    def name(self) -> str:
        """Head and layer as text."""
        return f"{self.head} on {self.layer}"

    def to_dict(self) -> dict[str, object]:
        """Return it as a JSON object, with all settings."""
        return {
            "layer": self.layer,
            "head": self.candidate.kind,
            "settings": dataclasses.asdict(self.candidate.settings),
            "from_scratch": self.is_from_scratch,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadGrid:
    """Kinds of heads and the values to try of their settings.

    Attributes
    ----------
    settings : tuple of (str, str)
        As typed: ``("C", "0.1,1")`` for all heads that have such a setting,
        ``("mlp.dropout", "0,0.5")`` for one of them, ``("mlp.layers", "A,B")`` for the layers
        that one of them is tried on.
    """

    heads: tuple[str, ...]
    settings: tuple[tuple[str, str], ...] = ()

    def expand(self, task: str) -> list[Candidate]:
        """List every head with every combination of its settings.

        Raises
        ------
        StageError
            A head, a setting or a value does not exist, or a head cannot do the task.
        """
        for kind in self.heads:
            check_task(kind, task)
        self._check_names()
        found = [
            make_candidate(kind, dict(chosen), task=task, layers=self._find_layers(kind))
            for kind in self.heads
            for chosen in product(*self._choices(kind))
        ]
        return list(dict.fromkeys(found))

    def _find_layers(self, kind: str) -> list[str]:
        """Return the layers that a head is to be tried on, where it is not all."""
        given = dict(self.settings).get(f"{kind}.{LAYERS}", "")
        return [part.strip() for part in given.split(",") if part.strip()]

    def _choices(self, kind: str) -> list[list[tuple[str, object]]]:
        """List, for each setting that is given for a head, the pairs of its name and a value."""
        given: dict[str, str] = {}
        for name, values in sorted(self.settings, key=lambda pair: "." in pair[0]):
            owner, _, setting = name.rpartition(".")
            if setting == LAYERS:
                continue
            if owner == kind or (not owner and setting in _names_of(kind)):
                given[setting] = values
        return [
            [(name, value) for value in split_values(name, text)] for name, text in given.items()
        ]

    def _check_names(self) -> None:
        for name, _ in self.settings:
            owner, _, setting = name.rpartition(".")
            if owner and owner not in self.heads:
                raise UnknownNameError("head", owner, self.heads, where=f"in --set {name}")
            kinds = [owner] if owner else self.heads
            known = [one for kind in kinds for one in _names_of(kind)] + [LAYERS] * bool(owner)
            if setting not in known:
                for kind in kinds:
                    check_retired(kind, [setting])
                where = f"of {owner or ', '.join(self.heads)}"
                raise UnknownNameError("setting", setting, dict.fromkeys(known), where=where)


def _names_of(kind: str) -> list[str]:
    return [field.name for field in dataclasses.fields(HEADS[kind].settings)]


def split_values(name: str, text: str) -> list[str]:
    """Split ``0.1,1`` at its commas, but neither ``[256,128]`` nor ``cat:1,dog:3``."""
    values: list[str] = []
    for part in map(str.strip, _OUTSIDE_BRACKETS.split(text)):
        if values and all(":" in one and "[" not in one for one in (values[-1], part)):
            values[-1] += f",{part}"  # weights of two classes are one value
        else:
            values.append(part)
    if not all(values):
        raise PipelineError(f"--set {name}={text} has an empty value; write values as 0.1,1,10")
    return values


def choose_layers(
    files: FeatureFiles, layers: Sequence[str] | None, poolings: Sequence[str] | None
) -> list[str]:
    """List the layers to try: those named, or all there are, with each of the poolings.

    A layer without height and width, or that is named with a pooling, is taken as it is; so are the
    images themselves.
    """
    for pooling in poolings or ():
        if not is_pooling(pooling):
            raise UnknownNameError("pooling", pooling, POOLINGS)
    named = files.layers if layers is None else layers
    chosen = (one for name in named for one in _pool_each(files, name, poolings))
    # Two ways of writing one layer are one.
    return list(dict.fromkeys(_normalise(one) for one in chosen))


def list_configurations(
    files: FeatureFiles,
    layers: Sequence[str],
    candidates: Sequence[Candidate],
    *,
    data: TaskOptions,
    n_rows: int,
) -> list[Configuration]:
    """List every candidate on every layer.

    Parameters
    ----------
    n_rows : int
        Images that are in folds.
    """
    rows_key = digest_rows(data, files)
    texts = [_describe_settings(one, candidates) for one in candidates]
    own = {one: [_normalise(name) for name in one.layers] for one in candidates}
    found = []
    # Layers that no head is tried on need not be there.
    shared = layers if not all(own.values()) else ()
    for layer in dict.fromkeys([*shared, *chain.from_iterable(own.values())]):
        stored = files.find_layers(layer)
        matrix = files.open_matrix(stored)
        learnt = [one for one in stored if files.has_learnt_backbone(one)]
        n_views = len(list_views(stored, averages=data.average_views))
        decide = partial(
            decide_scaling,
            shape=(n_rows * n_views, matrix.shape[1]),
            is_kept=False,
            memory_bytes=data.memory_bytes,
        )
        for one, text in zip(candidates, texts, strict=True):
            if layer not in (own[one] or layers):
                continue
            # Of layers that were named for it alone, each is tried.
            if not own[one] and not HEADS[one.kind].can_take(matrix.origin):
                continue
            above = matrix.origin.above
            scalings = [decide(one.kind)]
            key = digest_fit(rows_key, stored, one, scalings=scalings, above=above)
            found.append(
                Configuration(
                    layer=layer,
                    candidate=one,
                    settings=text,
                    key=key,
                    is_from_scratch=is_from_scratch(one, learnt=learnt),
                )
            )
    _check_all_tried(candidates, found, layers)
    return found


def _check_all_tried(
    candidates: Sequence[Candidate], found: Sequence[Configuration], layers: Sequence[str]
) -> None:
    """Raise PipelineError where a head can be fitted on none of the layers."""
    tried = {one.candidate for one in found}
    for one in candidates:
        if one not in tried:
            wanted = (
                "one with height and width, as pixels"
                if HEADS[one.kind].needs_map
                else "image_embedding, of a preset with a text tower"
                if HEADS[one.kind].needs_texts
                else "one without pooling, and not joined, as pixels"
            )
            raise PipelineError(
                f"{one.kind} can be fitted on none of the layers {', '.join(layers)}; it needs"
                f" {wanted}"
            )


def _pool_each(files: FeatureFiles, name: str, poolings: Sequence[str] | None) -> Iterable[str]:
    if not poolings or JOINED_BY in name:
        return [name]
    spec = parse_layer_spec(name)
    if spec.is_pixels or spec.pooling != "none" or not files.has_space(name):
        return [name]
    return [str(LayerSpec(spec.layer, pooling)) for pooling in poolings]


def _normalise(expression: str) -> str:
    return JOINED_BY.join(str(parse_layer_spec(term)) for term in expression.split(JOINED_BY))


def _describe_settings(candidate: Candidate, others: Sequence[Candidate]) -> str:
    """Write the settings that are not the defaults, or that vary among heads of this kind."""
    values = dataclasses.asdict(candidate.settings)
    defaults = dataclasses.asdict(type(candidate.settings)())
    alike = [dataclasses.asdict(one.settings) for one in others if one.kind == candidate.kind]
    return " ".join(
        f"{name}={_write(value)}"
        for name, value in values.items()
        if value != defaults[name] or any(one[name] != value for one in alike)
    )


def _write(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_write_part, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _write_part(part: object) -> str:
    return ":".join(map(_write, part)) if isinstance(part, tuple) else _write(part)
