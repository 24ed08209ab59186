"""Tasks of a sweep that take milliseconds, and the processes that run them."""

from __future__ import annotations

import os
import signal

import numpy as np
import psutil

from permafrost.stages.datasets.targets import CLASSIFICATION, Targets
from permafrost.stages.evaluation.fold_task import Candidate, FoldTask
from permafrost.stages.heads import FitRows, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix

N_CLASSES = 10
# Its answer is larger than any socket's buffer: the process is still writing it when it is killed.
N_MANY = 40_000


def make_task(
    number: int, *, n_test: int = 50, n_features: int = 4, kind: str = "nearest_mean"
) -> FoldTask:
    labels = np.arange(100) % N_CLASSES
    generator = np.random.default_rng(number)
    rows = np.concatenate([labels, generator.integers(0, N_CLASSES, n_test)])
    names = rows.astype(np.str_)
    features = generator.normal(size=(len(rows), n_features)) + rows[:, None]
    return FoldTask(
        rows=FitRows(
            matrix=ArrayMatrix(features.astype(np.float32)),
            targets=Targets(task=CLASSIFICATION, values=names, classes=np.unique(names)),
            train=np.arange(100),
            groups=np.arange(len(rows)),
            seed=0,
            memory_bytes=10**9,
        ),
        test=np.arange(100, len(rows)),
        number=number,
        candidates={0: Candidate(kind=kind, settings=parse_settings("nearest_mean", {}))},
    )


def list_children() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [one for one in children if any("evaluation.processes" in w for w in one.cmdline())]


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
