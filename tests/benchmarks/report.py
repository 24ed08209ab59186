"""From the figures of each round to medians, ratios and a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.contestants import Figures
from tests.benchmarks.machine import Load, Machine

Round = Mapping[str, Figures]
Ratios = dict[str, float | None]

WHOLE, STEADY = "whole_images_per_s", "steady_images_per_s"
# What a part of the work has instead of both: it has no start.
ALONE = "images_per_s"
# Of figures in billions, which stand beside what was measured.
_UNITS = {
    "bytes_per_s": "GB/s",
    "float32_flop_per_s": "GFLOP/s in float32",
    "bfloat16_flop_per_s": "GFLOP/s in bfloat16",
    "float16_flop_per_s": "GFLOP/s in float16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """All that was found out.

    Attributes
    ----------
    title, note : str
        What was measured, and how.
    titles : dict of str to str
        Contestant → what it is.
    left_out : dict of str to str
        Contestant → why it could not take part.
    machine : Machine
    load_before, load_after : tuple of float
        The machine's load averages over 1, 5 and 15 minutes.
    rounds : list of dict of str to Figures
        For each round, contestant → what was measured.
    """

    title: str
    note: str
    titles: Mapping[str, str]
    left_out: Mapping[str, str]
    machine: Machine
    load_before: Load
    load_after: Load
    rounds: Sequence[Round]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, medians and ratios too, as a JSON object."""
        return {
            **asdict(self),
            "medians": find_medians(self.rounds),
            "ratios": find_ratios(self.rounds),
            "memory_ratio": find_memory_ratio(self.rounds),
        }

    def describe(self) -> str:
        """Return it as Markdown."""
        parts = [f"### {self.title}", self.note, _tabulate_medians(self), _tabulate_ratios(self)]
        parts += [f"Left out: {self.titles[name]}: {why}." for name, why in self.left_out.items()]
        before, after = (
            " ".join(f"{n:.1f}" for n in load) for load in (self.load_before, self.load_after)
        )
        parts.append(f"{self.machine.describe()}. Load {before} before, {after} after.")
        return "\n\n".join(part for part in parts if part) + "\n"


def find_median(values: Iterable[float | None]) -> float | None:
    """Return the median, if every round has a value."""
    found = list(values)
    known = [value for value in found if value is not None]
    return statistics.median(known) if len(known) == len(found) else None


def find_medians(rounds: Sequence[Round]) -> dict[str, Figures]:
    """Return the median over the rounds of each number of each contestant."""
    return {
        name: {
            key: find_median(found[name][key] for found in rounds)
            for key, value in entry.items()
            if not isinstance(value, dict)
        }
        for name, entry in rounds[0].items()
    }


def find_ratios(rounds: Sequence[Round]) -> dict[str, Ratios]:
    """Return, for each of `RIVALS` that took part, the median of the ratios within each round."""
    return {
        title: {
            kind: find_median(compare_rates(found["ours"], rival(found), kind) for found in rounds)
            for kind in (WHOLE, STEADY)
        }
        for title, rival in RIVALS.items()
        if "ours" in rounds[0] and rival(rounds[0])
    }


def find_memory_ratio(rounds: Sequence[Round]) -> float | None:
    """Return the median ratio of peak memory to the Keras idiom's, for the same images."""
    if not {"ours", "idiom"} <= rounds[0].keys():
        return None
    pairs = [(found["ours"], found["idiom"]) for found in rounds]
    if any(ours["n_images"] != theirs["n_images"] for ours, theirs in pairs):
        return None
    return find_median(ours["peak_bytes"] / theirs["peak_bytes"] for ours, theirs in pairs)


def compare_rates(ours: Figures, rivals: Sequence[Figures], kind: str) -> float | None:
    """Return how many times as fast ours is as the fastest rival.

    None where there is nothing to compare, or unlike things: processes of which the start is a
    larger part, because they had fewer images.
    """
    if kind == WHOLE and any(
        r.get("n_images", ours["n_images"]) != ours["n_images"] for r in rivals
    ):
        return None
    rates: list[float | None] = [rival.get(kind, rival.get(ALONE)) for rival in rivals]
    known = [rate for rate in rates if rate is not None]
    own: float | None = ours[kind]
    return None if own is None or len(known) < len(rates) else own / max(known)


def add_times(*parts: Figures) -> Figures:
    """Return the rate of parts of the work that take turns on the same cores."""
    return {ALONE: 1 / sum(1 / part[ALONE] for part in parts)}


def _find(*names: str) -> Callable[[Round], list[Figures]]:
    return lambda found: [found[name] for name in names if name in found]


def _list_torch(found: Round) -> list[Figures]:
    return [entry for name, entry in found.items() if name.startswith("torch")]


def _add_decoding(found: Round) -> list[Figures]:
    parts = _find("floor", "decode")(found)
    return [add_times(*parts)] if len(parts) == 2 else []


# What ours is compared with; nobody where a contestant did not take part.
RIVALS: Mapping[str, Callable[[Round], Sequence[Figures]]] = {
    "floor": _find("floor"),
    "1 / (1/floor + 1/decoding)": _add_decoding,
    "Keras idiom": _find("idiom"),
    "best torchvision": _list_torch,
}


def _tabulate(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tabulate_medians(benchmark: Benchmark) -> str:
    header = ("", "images/s, start to exit", "images/s, steady", "seconds", "peak memory")
    rows = []
    for name, entry in find_medians(benchmark.rounds).items():
        peak, steady = entry.get("peak_bytes"), entry.get(STEADY, entry.get(ALONE))
        rows.append((
            benchmark.titles[name] + _describe_extras(entry),
            *(_show(number) for number in (entry.get(WHOLE), steady, entry.get("seconds"))),
            f"{peak / 1e9:.2f} GB" if peak else "",
        ))  # fmt: skip
    return _tabulate(header, rows)


def _tabulate_ratios(benchmark: Benchmark) -> str:
    ratios = find_ratios(benchmark.rounds)
    rows = [(title, _show(found[WHOLE]), _show(found[STEADY])) for title, found in ratios.items()]
    memory = find_memory_ratio(benchmark.rounds)
    if memory:
        rows.append(("Keras idiom, peak memory", _show(memory), ""))
    return _tabulate(("`extract` against", "start to exit", "steady"), rows) if rows else ""


def _describe_extras(entry: Figures) -> str:
    extras = [
        f"{value / 1e9:.3g} {_UNITS[key]}"
        for key, value in entry.items()
        if key in _UNITS and value
    ]
    return f" ({', '.join(extras)})" if extras else ""


def _show(number: float | None) -> str:
    """Write a number with three digits that count."""
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"
