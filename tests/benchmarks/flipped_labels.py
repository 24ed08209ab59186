"""Flip some labels of real photos, and see how many ``audit`` finds, beside cleanlab.

python -m tests.benchmarks.flipped_labels --features F.h5 --layer SPEC [--share 0.05] [--seeds 3]

cleanlab is given the same out-of-fold probabilities: those of one round of folds, and those of the
second round, which `audit` ranks by. Precision is that of the first suspects, as many as labels
were flipped; recall that of twice as many.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.views.features import Features
from permafrost.pipeline.audit import unseen
from permafrost.pipeline.audit.audit import audit
from permafrost.pipeline.audit.options import AuditOptions, choose_candidate
from permafrost.pipeline.models.fit import open_bench
from permafrost.pipeline.models.measure import cross_validate, plan_trial
from permafrost.pipeline.tasks.task import TaskOptions


def write_flipped(source: Path, target: Path, *, share: float, seed: int) -> np.ndarray:
    """Copy a file of features with some labels turned into others; tell which."""
    with Features(source) as features:
        labels = np.array(features.labels, object)
    rng, classes = np.random.default_rng(seed), np.unique(labels.astype(str))
    is_flipped = np.zeros(len(labels), bool)
    is_flipped[rng.choice(len(labels), round(share * len(labels)), replace=False)] = True
    for row in np.flatnonzero(is_flipped):
        labels[row] = rng.choice(classes[classes != labels[row]])
    rewrite(source, target, labels)
    return is_flipped


def rewrite(source: Path, target: Path, labels: np.ndarray) -> None:
    """Write a file of plain values with other labels."""
    with Features(source) as features, h5py.File(target, "w") as file:
        file.attrs["origin"] = features.origin
        images = file.create_group("images")
        images.attrs["root"] = features.root
        images["digest"], images["path"] = features.digests, features.paths
        images["label"], images["split"] = [str(label) for label in labels], [""] * len(labels)
        for layer in features.layers:
            dataset = file.create_dataset(f"features/{layer}", data=features.read(layer))
            dataset.attrs["recipe"] = json.dumps(features.recipe(layer))


def rate(order: np.ndarray, is_flipped: np.ndarray) -> tuple[float, float]:
    """Return precision of the first n suspects and recall of the first 2 n, of n flipped."""
    n = int(is_flipped.sum())
    return float(is_flipped[order[:n]].sum() / n), float(is_flipped[order[: 2 * n]].sum() / n)


def rank_by_cleanlab(codes: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return the rows that cleanlab finds, and then all others by its label quality."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    found = find_label_issues(codes, outputs, return_indices_ranked_by="self_confidence")
    rest = np.argsort(get_label_quality_scores(codes, outputs), kind="stable")
    return np.concatenate([found, rest[~np.isin(rest, found)]])


def measure(options: AuditOptions, is_flipped: np.ndarray) -> dict[str, tuple[float, float]]:
    """Rank the rows in all ways."""
    audit(options)
    with (options.out / "issues.csv").open(newline="") as stream:
        suspects = [row["path"] for row in csv.DictReader(stream) if row["kind"] == "label"]
    with options.data.open_files() as files:
        bench = open_bench(options.data, files, files.find_layers(options.layer))
        place = {path: row for row, path in enumerate(files.paths)}
        codes = np.unique(bench.labelled.targets.values, return_inverse=True)[1]
        default = choose_candidate("logreg", {"C": 1.0}, task="classification")
        trial = plan_trial(bench, n_folds=5)
        plain = cross_validate(default, trial)[1]
        once = cross_validate(options.choose_candidate(), trial)[1]
        twice = unseen.predict_labels(bench, options.choose_candidate(), n_folds=5).outputs
    return {
        "audit": rate(np.array([place[path] for path in suspects]), is_flipped),
        "cleanlab, the same probabilities": rate(rank_by_cleanlab(codes, twice), is_flipped),
        "cleanlab, one round": rate(rank_by_cleanlab(codes, once), is_flipped),
        "cleanlab, one round, C=1": rate(rank_by_cleanlab(codes, plain), is_flipped),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--layer", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(given.seeds):
            view = Path(name) / f"{seed}.h5"
            is_flipped = write_flipped(given.features, view, share=given.share, seed=seed)
            options = AuditOptions(
                data=TaskOptions(features=(view,)), layer=given.layer, out=Path(name) / str(seed)
            )
            for way, figures in measure(options, is_flipped).items():
                found.setdefault(way, []).append(figures)
    for way, figures in found.items():
        precision, recall = np.mean(figures, axis=0)
        each = ", ".join(f"{one:.2f}/{two:.2f}" for one, two in figures)
        print(f"{way:34} precision {precision:.3f}  recall {recall:.3f}  ({each})")


if __name__ == "__main__":
    main()
