"""The next experiment: the recipe of a scenario, as heads and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from permafrost.pipeline.advice.known import KnownBackbone
from permafrost.pipeline.advice.probe import Probed, choose_grid
from permafrost.pipeline.sweeps.intervals import bound_difference
from permafrost.pipeline.tasks.rows import JOINED_BY
from permafrost.stages.advice.scenario import (
    DIFFERENT,
    LARGE,
    SIMILAR,
    SMALL,
    UNDECIDED,
    judge_domain,
)
from permafrost.stages.backbones.layers import PIXELS, BackboneCard
from permafrost.stages.evaluation.intervals import Interval

RECIPES: Mapping[tuple[str, str], str] = {
    (SMALL, SIMILAR): "few images of a like domain: linear heads on a late layer",
    (SMALL, DIFFERENT): "few images of another domain: light heads on an early layer",
    (SMALL, UNDECIDED): "few images: linear heads on the best and on the last layer",
    (LARGE, SIMILAR): "many images of a like domain: fine-tune above a late cut, at small rates",
    (LARGE, DIFFERENT): "many images of another domain: fine-tune above an early cut, and compare"
    " with a network from scratch",
    (LARGE, UNDECIDED): "many images: fine-tune above the best layer, and compare with a network"
    " from scratch",
}
ONE_DEPTH = "one layer says nothing of depth: probe others first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The probed layers of one backbone, from the first to the last.

    Attributes
    ----------
    layers : list of Probed
        The best of each network layer.
    """

    known: KnownBackbone
    layers: list[Probed]

    @property
    def file(self) -> int:
        """The number of its file."""
        return self.layers[0].stored.file

    @property
    def place(self) -> int:
        """The place of the best layer; of equal ones the deepest."""
        return max(range(len(self.layers)), key=lambda place: (self.layers[place].score, place))

    @property
    def peak(self) -> Probed:
        """The best layer."""
        return self.layers[self.place]

    @property
    def interval(self) -> Interval | None:
        """95 % of the difference between the best layer and the last."""
        return bound_difference(self.peak.entry.folds, self.layers[-1].entry.folds)

    @property
    def domain(self) -> str:
        """What depth says of the images' domain, see `judge_domain`."""
        return judge_domain(len(self.layers), self.place, self.interval)

    def depth(self, probed: Probed) -> int:
        """Return which of the layers one is, from 1 on."""
        return 1 + [one.layer for one in self.layers].index(probed.layer)

    @property
    def cut(self) -> str | None:
        """The network layer to fine-tune above: the best one, or the nearest before it."""
        names = [one.layer for one in reversed(self.layers[: self.place + 1])]
        return next((name for name in names if self.known.can_be_cut(name)), None)

    @property
    def n_weights(self) -> int | None:
        """How many weights fine-tuning above the cut trains; None where that is not known."""
        return None if self.cut is None else self.known.count_above(self.cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What to try next.

    Attributes
    ----------
    extracted : tuple of str
        Layer specs of the backbone.
    tried : tuple of str
        What heads are tried on that name no layers of their own.
    heads : list of dict
        As in an experiment file.
    """

    recipe: str
    extracted: tuple[str, ...]
    tried: tuple[str, ...]
    heads: list[dict[str, Any]]


def propose(ladder: Ladder, size: str, *, task: str) -> Proposal:
    """Choose the recipe, and its heads and layers."""
    kind, setting, values = choose_grid(task)
    card = ladder.known.card
    if len(ladder.layers) == 1 and card and (stages := list_stage_ends(card)):
        specs = tuple(f"{name}:avg" for name in stages)
        probe = {"kind": kind, setting: list(values)}
        return Proposal(recipe=ONE_DEPTH, extracted=specs, tried=specs, heads=[probe])
    best = getattr(ladder.peak.entry.configuration.candidate.settings, setting)
    linear: dict[str, Any] = {
        "kind": kind,
        setting: [float(f"{best * factor:.1g}") for factor in (0.3, 1, 3)],
    }
    heads = [linear, *_list_trained(ladder, size)]
    tried = _choose_tried(ladder, size)
    own: list[str] = [name for head in heads for name in head.get("layers", ())]
    return Proposal(
        recipe=RECIPES[size, ladder.domain],
        extracted=tuple(dict.fromkeys([*_list_sources(ladder, tried), *own])),
        tried=tried,
        heads=heads,
    )


def _list_trained(ladder: Ladder, size: str) -> list[dict[str, Any]]:
    """List the heads that learn more than a linear one does."""
    verdict = ladder.domain
    small: list[dict[str, Any]] = [{"kind": "mlp", "hidden": [256]}]
    if size == SMALL:
        return small if verdict == DIFFERENT else []
    rates = [1e-5, 1e-4] if verdict == SIMILAR else [1e-4, 1e-3]
    tuned = {"kind": "finetune", "epochs": 20, "learning_rate": rates, "layers": [ladder.cut]}
    scratch = {"kind": "cnn", "epochs": 20, "layers": [PIXELS]}
    return small + [tuned] * (ladder.cut is not None) + [scratch] * (verdict != SIMILAR)


def _choose_tried(ladder: Ladder, size: str) -> tuple[str, ...]:
    """Choose the peak; the last too, if it may be as good; of few images, neighbours joined."""
    peak, layers = ladder.place, ladder.layers
    is_different = ladder.domain == DIFFERENT
    chosen = [layers[peak]]
    if not is_different and layers[-1] not in chosen:
        chosen.append(layers[-1])
    names = [str(one.stored.spec) for one in chosen]
    if size == SMALL and len(layers) > 1:
        around = layers[max(0, peak - 1) : peak + (1 if is_different and peak else 2)]
        names.append(JOINED_BY.join(str(one.stored.spec) for one in around))
    return tuple(names)


def _list_sources(ladder: Ladder, tried: Sequence[str]) -> list[str]:
    """List what the file has of the layers that are tried: the map, of what is averaged from it."""
    held = {str(one.stored.spec): one.stored.name for one in ladder.layers}
    return [held[term] for name in tried for term in name.split(JOINED_BY)]


def list_stage_ends(card: BackboneCard) -> list[str]:
    """List the last layer of each resolution, as a convolutional network halves it.

    Padding makes maps a little larger: of one stage the layers with the smallest maps count.
    """
    ends: dict[int, tuple[int, str]] = {}
    for name, layer in card.layers.items():
        if layer.extent > 1 and layer.n_calls == 1:
            stage = round(min(card.size) / layer.extent).bit_length()
            if stage not in ends or layer.extent <= ends[stage][0]:
                ends[stage] = layer.extent, name
    return [name for _, name in ends.values()]
