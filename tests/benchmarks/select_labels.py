"""Accuracy over the number of labels: what ``select`` chooses against random choice.

python -m tests.benchmarks.select_labels --features F.h5 --layer SPEC [--seeds 5]

Half of the rows, another one with each seed, are only measured on. Of the others 10 are chosen
without a label, then 10, 30 and 50 more, each time with the labels before; a logistic regression
with C=0.01 is fitted on all that have one. The interval is that of the mean over the seeds, by
Student's t, and that of the difference to random choice on the same halves.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.cache.views.features import Features
from permafrost.pipeline.audit.options import SelectOptions
from permafrost.pipeline.audit.select import select
from permafrost.pipeline.tasks.task import TaskOptions

SIZES = (10, 20, 50, 100)
Choose = Callable[[np.ndarray, int], np.ndarray]


def write_pool(source: Path, target: Path, layer: str, rows: np.ndarray, known: np.ndarray) -> None:
    """Write a file of features of some rows, of which those that are known have a label."""
    with Features(source) as features, h5py.File(target, "w") as file:
        file.attrs["origin"] = features.origin
        images = file.create_group("images")
        images.attrs["root"] = ""
        images["digest"] = features.digests[rows]
        images["path"] = [features.paths[row] for row in rows]
        images["label"] = [features.labels[row] if row in known else "" for row in rows.tolist()]
        images["split"] = [""] * len(rows)
        dataset = file.create_dataset(f"features/{layer}", data=features.read(layer, rows))
        dataset.attrs["recipe"] = json.dumps(features.recipe(layer))


def choose_with(strategy: str, source: Path, layer: str, pool: np.ndarray, folder: Path) -> Choose:
    """Return what chooses rows as the command does."""
    with Features(source) as features:
        place = {path: row for row, path in enumerate(features.paths)}

    def choose(known: np.ndarray, n: int) -> np.ndarray:
        view, out = folder / "pool.h5", folder / "next.csv"
        write_pool(source, view, layer, pool, known)
        data = TaskOptions(features=(view,))
        select(SelectOptions(data=data, n=n, layer=layer, strategy=strategy, out=out))
        with out.open(newline="") as stream:
            return np.array([place[row["path"]] for row in csv.DictReader(stream)])

    return choose


def measure(
    choose: Choose, values: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> list[float]:
    """Return the accuracy at each of the sizes."""
    known, found = np.empty(0, np.int64), []
    for size in SIZES:
        known = np.concatenate([known, choose(known, size - len(known))])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        if len(set(labels[known])) < 2:
            found.append(float((labels[test] == labels[known][0]).mean()))
        else:
            model.fit(values[known], labels[known])
            found.append(float(model.score(values[test], labels[test])))
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--layer", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    with Features(given.features) as features:
        values, labels = features.read(given.layer), np.array(features.labels)
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(given.seeds):
            rng = np.random.default_rng(seed)
            order = rng.permutation(len(labels))
            test, pool = order[: len(order) // 2], np.sort(order[len(order) // 2 :])
            shuffled = rng.permutation(pool)
            ways: dict[str, Choose] = {
                "random": lambda known, n, some=shuffled: some[len(known) : len(known) + n]
            }
            for strategy in ("uncertain", "diverse", "mixed"):
                ways[strategy] = choose_with(
                    strategy, given.features, given.layer, pool, Path(name)
                )
            for way, choose in ways.items():
                found.setdefault(way, []).append(measure(choose, values, labels, test))
    factor = student.ppf(0.975, given.seeds - 1) / np.sqrt(given.seeds)
    random = np.array(found["random"])
    for way, figures in found.items():
        each = np.array(figures)
        reach, gain = factor * each.std(axis=0, ddof=1), each - random
        told = [f"{one:.3f} ± {far:.3f}" for one, far in zip(each.mean(axis=0), reach, strict=True)]
        print(f"{way:10} {'  '.join(told)}")
        if way != "random":
            reach = factor * gain.std(axis=0, ddof=1)
            told = [f"{a:+.3f} ± {b:.3f}" for a, b in zip(gain.mean(axis=0), reach, strict=True)]
            print(f"{'  gain':10} {'  '.join(told)}")


if __name__ == "__main__":
    main()
