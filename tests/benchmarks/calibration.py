"""What calibration is worth on images that no head has seen: before and after, and with a reject.

    python -m tests.benchmarks.calibration features.h5 --layer block5_pool:avg

Where there is a test split the figures are of it. Without one every image is predicted by a head
that was fitted on the others, in five folds, and the figures are of all of them together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.pipeline.models.fit import fit
from permafrost.pipeline.models.record import AnswerOptions, FitOptions
from permafrost.pipeline.models.reopened import ReopenedFit, predict_unseen, reopen_fit
from permafrost.pipeline.tasks.task import TaskOptions
from permafrost.stages.datasets.targets import Targets
from permafrost.stages.evaluation.metrics import score
from permafrost.stages.heads import load_head

HEADS = ("logreg", "linear_svm", "ridge", "mlp")
METHODS = ("none", "sigmoid", "isotonic", "temperature")
REJECTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def measure(features: Path, layer: str, head: str, method: str) -> dict[str, Any]:
    """Return figures of all images, and what is answered from each probability on."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        options = FitOptions(
            data=TaskOptions(features=(features,), memory_bytes=10**9),
            layer=layer,
            head=head,
            answer=AnswerOptions(calibrate=method),
            out=Path(folder),
        )
        fit(options)
        with reopen_fit(Path(folder)) as fitted:
            outputs, classes, truth = ask(fitted)
    figures: dict[str, Any] = dict(score(truth, outputs, classes))
    best = outputs.max(axis=1)
    right = classes[outputs.argmax(axis=1)] == truth.values
    rejects = [
        {
            "reject": p,
            "answered": float((best >= p).mean()),
            "accuracy": float(right[best >= p].mean()),
        }
        for p in REJECTS
        if (best >= p).any()
    ]
    about = {"layer": layer, "head": head, "method": method, "rows": len(best)}
    seconds = round(time.monotonic() - started_s, 1)
    return about | figures | {"sure": float(np.mean(best)), "rejects": rejects, "seconds": seconds}


def ask(fitted: ReopenedFit) -> tuple[np.ndarray, np.ndarray, Targets]:
    """Return outputs, their classes and the truth of images that were not fitted on."""
    bench = fitted.bench
    test = bench.labelled.test
    if len(test):
        head = load_head(fitted.folder / "head")
        return bench.predict(head, test), head.classes, bench.labelled.targets.select(test)
    found = predict_unseen(fitted, n_folds=5)
    assert found is not None, "no network is measured"
    return found.outputs, found.classes, bench.labelled.targets.select(found.rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("--layer", required=True)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parsed = parser.parse_args()
    for head in parsed.heads.split(","):
        for method in parsed.methods.split(","):
            found = measure(parsed.features, parsed.layer, head, method)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
