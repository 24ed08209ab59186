"""What a fit depends on besides rows, features and settings: code, and what memory allows."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from permafrost.stages.heads.registry import HEADS
from permafrost.stages.matrices.budget import Budget


def describe_code(kind: str) -> list[object]:
    """Return what code fits a kind of head: our own number, and the versions of packages."""
    return [HEADS[kind].numerics, _find_versions(HEADS[kind].packages)]


@cache
def _find_versions(packages: tuple[str, ...]) -> list[str]:
    return [f"{package} {version(package)}" for package in packages]


def is_reduced(kind: str, shape: tuple[int, int], *, is_kept: bool, memory_bytes: int) -> bool:
    """Tell whether a kind of head is fitted on reduced rows, which may depend on the memory.

    Parameters
    ----------
    kind : str
    shape : (int, int)
        Rows that are scaled together, and features.
    is_kept : bool
        Whether they are one training set, for a head of the full width; else they hold several.
    memory_bytes : int

    Raises
    ------
    InputError
        There is too little memory for either way.
    """
    head_kind = HEADS[kind]
    if not head_kind.is_estimator:
        return False
    budget = Budget(
        n_rows=shape[0],
        n_features=shape[1],
        memory_bytes=memory_bytes,
        fit_bytes=head_kind.fit_bytes,
    )
    may_reduce = not (is_kept and head_kind.keeps_rows)
    return budget.should_reduce(n_sets=1 if is_kept else 2, may_reduce=may_reduce)
