"""What a user can ask of ``audit`` and ``select``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import SOURCES, declare
from permafrost.pipeline.parsers import read_whole
from permafrost.pipeline.tasks.task import TaskOptions, make_candidate
from permafrost.stages.datasets.targets import REGRESSION
from permafrost.stages.evaluation.fold_task import Candidate

STRATEGIES = ("uncertain", "diverse", "mixed")
# Strong regularisation: a head that can learn every row by heart learns wrong labels, too. With 5 %
# of 1,000 labels flipped, 42 of the first 50 suspects were right in one round, and 38 with C=1.
_STRENGTH: Mapping[str, object] = {"C": 0.01}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """What ``audit`` is asked for.

    Attributes
    ----------
    settings : mapping of str to object
        Of the head.
    out : Path
        Folder for ``issues.csv`` and ``audit.json``.
    """

    data: TaskOptions
    layer: str = field(metadata={"metavar": "SPEC", "help": "as block5_pool:avg; A+B joins two"})
    head: str | None = declare(
        None, metavar="HEAD", help="predicts each row unseen (default: logreg; ridge for numbers)"
    )
    settings: Mapping[str, object] = field(default_factory=dict)
    images: str | None = declare(
        None, metavar="SOURCE", help=f"where the pictures are, if they moved: {SOURCES}"
    )
    out: Path

    def choose_candidate(self) -> Candidate:
        """Return the head that is fitted."""
        return choose_candidate(self.head, self.settings, task=self.data.task)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectOptions:
    """What ``select`` is asked for; `out` is the CSV file."""

    data: TaskOptions
    n: int = field(
        metadata={"flag": "-n", "type": read_whole, "metavar": "N", "help": "how many rows"}
    )
    layer: str | None = declare(
        None, metavar="SPEC", help="as block5_pool:avg (default: the model's, or the only one)"
    )
    model: Path | None = field(
        default=None,
        metadata={"type": Path, "metavar": "DIR", "help": "what fit wrote (default: fits logreg)"},
    )
    strategy: str = declare(
        "mixed",
        choices=STRATEGIES,
        help="what a head is unsure of, what is unlike all that is labelled, or the second among"
        " 10 N of the first; without two classes of labels always the second",
    )
    from_split: str | None = declare(
        None, metavar="SPLIT", help="choose among its rows, as if they had no labels"
    )
    with_labelled: bool = declare(
        default=False,
        action="store_true",
        help="list labelled rows below, so that the file, filled in, is a whole --labels csv:FILE",
    )
    out: Path

    def __post_init__(self) -> None:
        if self.n < 1:
            raise PipelineError(f"-n {self.n}: select at least 1 row")
        if self.strategy not in STRATEGIES:
            raise PipelineError(f"--strategy {self.strategy!r}: {', '.join(STRATEGIES)}")
        if self.data.task == REGRESSION and self.strategy == "uncertain":
            raise PipelineError("a regression does not say how sure it is; use --strategy diverse")
        if self.out.is_dir():
            raise PipelineError(f"--out {str(self.out)!r} is a folder; name a file in it")


def choose_candidate(head: str | None, settings: Mapping[str, object], *, task: str) -> Candidate:
    """Return the head that says of rows what they are, on layers with little noise in them."""
    kind = head or ("ridge" if task == REGRESSION else "logreg")
    given = {**(_STRENGTH if kind == "logreg" else {}), **settings}
    return make_candidate(kind, given, task=task)
