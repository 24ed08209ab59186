"""``demo``: a network trained on some digits, frozen, and put to use on others; all of it offline.

The oldest recipe of transfer learning in small: a convolutional network learns the digits 0 to 4;
its layers up to the pooling are frozen, and light heads learn 5 to 9 on their activations. The best
of a sweep becomes one Keras model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from permafrost.cache.disk.publish import published
from permafrost.command import COMMAND, IS_CHECKOUT
from permafrost.pipeline.experiments.check import check_folder
from permafrost.pipeline.experiments.cnn import FEATURE_LAYER, measure_cnn, train_cnn
from permafrost.pipeline.experiments.digits import Digits, load_digits, write_digits
from permafrost.pipeline.export.export import export
from permafrost.pipeline.extraction.extract import extract
from permafrost.pipeline.extraction.summary import ExtractSummary
from permafrost.pipeline.models.fit import fit
from permafrost.pipeline.models.record import FitOptions
from permafrost.pipeline.options import DatasetOptions, ExtractOptions, FeatureOptions
from permafrost.pipeline.progress import tell
from permafrost.pipeline.sweeps.grid import HeadGrid
from permafrost.pipeline.sweeps.plan import SweepOptions
from permafrost.pipeline.sweeps.sweep import sweep
from permafrost.pipeline.tasks.task import TaskOptions
from permafrost.pipeline.units import describe_seconds
from permafrost.stages.datasets.table import write_table
from permafrost.stages.frameworks.start import start_tensorflow

SEED = 0
FEW_PER_DIGIT = 10
N_FOLDS = 5
LAYER = f"{FEATURE_LAYER}:flatten"
# The MLP has the shape of the network's own classifier.
HEADS: dict[str, tuple[str, dict[str, object]]] = {
    "logistic regression on frozen features": ("logreg", {}),
    "MLP on frozen features": ("mlp", {"hidden": (128,), "dropout": 0.5}),
}
GRID = HeadGrid(heads=("logreg", "ridge", "nearest_mean"), settings=(("C", "0.01,0.1,1"),))
FROM_SCRATCH = "the same network from scratch"
NEXT_COMMANDS = (
    f"{COMMAND} extract --images photos --split test=0.3 --backbone vgg16"
    " --layers block5_pool:avg --out features.h5",
    f"{COMMAND} sweep --features features.h5 --heads logreg,ridge,mlp --set C=0.01,0.1,1"
    " --out runs/sweep",
    f"{COMMAND} report runs/sweep",
    f"{COMMAND} export --model runs/sweep/best --out classifier.keras",
    *([f"{COMMAND} run examples/experiment.yaml"] if IS_CHECKOUT else []),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way of learning the digits 5 to 9 from `n_train` images, measured on `n_test` others.

    `seconds` go from the training images, or their cached features, to the measured accuracy.
    """

    method: str
    n_train: int
    n_test: int
    accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a sweep put first; `accuracy` is that of the test images, which had no part in it."""

    head: str
    accuracy: float
    n_tried: int
    n_folds: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo found.

    The first of the two `extractions` is that of all digits 5 to 9, the second that of the dataset
    with few of them for training.
    """

    trials: list[Trial]
    choice: Choice
    extractions: list[ExtractSummary]
    seconds: float
    out: Path

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return {**asdict(self), "out": str(self.out)}

    def describe(self) -> str:
        """Return the table, where things lie, and what to type next."""
        first, second = self.extractions
        choice = self.choice
        lines = [
            *_tabulate(self.trials),
            "",
            "The frozen network learnt from the digits 0 to 4 alone; it has never seen a 5.",
            f"Its activations for {first.images} images: {first.computed} computed,"
            f" {first.reused} reused, {describe_seconds(first.seconds)}.",
            f"For the dataset of {second.images} of them: {second.computed} computed,"
            f" {second.reused} reused, {describe_seconds(second.seconds)}.",
            f"A sweep of {choice.n_tried} heads over {choice.n_folds} folds took"
            f" {describe_seconds(choice.seconds)}; the first, {choice.head}, tells"
            f" {choice.accuracy:.3f} of the test images.",
            f"All of it took {describe_seconds(self.seconds)}.",
            "",
            f"In {self.out}:",
            "  digits-0-4/, digits-5-9/        the images, and a .csv that lists few of them",
            "  backbone.keras                  the network that is frozen",
            "  cache/                          its activations, each computed once",
            "  features.h5, features-few.h5    the same as datasets; h5py opens them",
            "  heads/                          what was fitted, with metrics and predictions",
            "  sweep/                          every head that was tried, and the best, fitted",
            "  classifier.keras                network and best head as one Keras model",
            "",
            "Next, with photos of your own in photos/CLASS/ (the weights of VGG16 are downloaded):",
            *(f"  {command}" for command in NEXT_COMMANDS),
        ]
        return "\n".join(lines)


def demo(out: Path) -> DemoResult:
    """Run the demo; a repeated one trains no backbone and computes no activations.

    Parameters
    ----------
    out : Path
        Folder for all that it writes; other files there are left alone.

    Raises
    ------
    PipelineError
        `out` cannot be a folder.
    """
    started_s = time.monotonic()
    check_folder(out, "--out")
    digits = load_digits(seed=SEED)
    known, new = digits.select(range(5)), digits.select(range(5, 10))
    few = new.thin_out(FEW_PER_DIGIT, seed=SEED)
    _say(f"{len(digits)} digits as PNG files in {out}")
    write_digits(known, out / "digits-0-4")
    write_digits(new, out / "digits-5-9")
    _write_list(few, out / "digits-5-9" / "few.csv")
    _prepare_backbone(known, out / "backbone.keras")
    _say("extracting features of the digits 5 to 9")
    extractions = [
        _extract(out, images=out / "digits-5-9", features=out / "features.h5"),
        _extract(out, images=out / "digits-5-9" / "few.csv", features=out / "features-few.h5"),
    ]
    trials = [
        *_try_heads(out / "features.h5", out / "heads" / "all"),
        _try_from_scratch(new),
        *_try_heads(out / "features-few.h5", out / "heads" / "few"),
        _try_from_scratch(few),
    ]
    choice = _choose_head(out / "features.h5", out / "sweep")
    _say("exporting the best as one Keras model")
    export(out / "sweep" / "best", out / "classifier.keras")
    seconds = round(time.monotonic() - started_s, 3)
    return DemoResult(
        trials=trials, choice=choice, extractions=extractions, seconds=seconds, out=out
    )


def _say(step: str) -> None:
    tell("step", f"demo: {step}", step=step)


def _write_list(digits: Digits, file: Path) -> None:
    labels = [str(label) for label in digits.labels]
    columns = {"path": digits.paths.tolist(), "label": labels, "split": digits.splits.tolist()}
    with published(file) as temporary:
        write_table(columns, temporary)


def _prepare_backbone(digits: Digits, file: Path) -> None:
    """Train the backbone if there is none; TensorFlow starts here, outside any timing."""
    _say("starting TensorFlow")
    start_tensorflow()
    if file.exists():
        return
    _say(f"training a network on {len(digits.train)} digits from 0 to 4, to be frozen")
    network = train_cnn(digits.train, seed=SEED)
    with published(file) as temporary:
        network.save(temporary)


def _extract(out: Path, *, images: Path, features: Path) -> ExtractSummary:
    options = ExtractOptions(
        dataset=DatasetOptions(images=str(images)),
        features=FeatureOptions(
            backbone=str(out / "backbone.keras"),
            layers=(LAYER,),
            # The network scales pixels itself.
            preprocess="none",
        ),
        cache=out / "cache",
    )
    return extract(options, features)


def _try_heads(features: Path, out: Path) -> Iterator[Trial]:
    for method, (head, settings) in HEADS.items():
        _say(f"fitting {method} of {features.name}")
        options = FitOptions(
            data=TaskOptions(features=(features,), seed=SEED),
            layer=LAYER,
            head=head,
            settings=settings,
            out=out / head,
        )
        metrics = fit(options).metrics
        measured = {name: metrics[name] for name in ("n_train", "n_test", "accuracy", "seconds")}
        yield Trial(method=method, **measured)


def _choose_head(features: Path, out: Path) -> Choice:
    _say(f"sweeping over heads and settings on {features.name}")
    data = TaskOptions(features=(features,), cv=N_FOLDS, seed=SEED)
    found = sweep(SweepOptions(data=data, candidates=GRID.expand(data.task), jobs=1, out=out))
    return Choice(
        head=found.board.entries[0].configuration.head,
        accuracy=found.best.metrics["accuracy"],
        n_tried=len(found.board.entries),
        n_folds=N_FOLDS,
        seconds=round(found.seconds, 3),
    )


def _try_from_scratch(digits: Digits) -> Trial:
    _say(f"training {FROM_SCRATCH} on {len(digits.train)} digits from 5 to 9")
    started_s = time.monotonic()
    network = train_cnn(digits.train, seed=SEED)
    accuracy = measure_cnn(network, digits.test)
    return Trial(
        method=FROM_SCRATCH,
        n_train=len(digits.train),
        n_test=len(digits.test),
        accuracy=accuracy,
        seconds=round(time.monotonic() - started_s, 3),
    )


def _tabulate(trials: list[Trial]) -> Iterator[str]:
    """Yield a row for each method and a pair of columns for each number of training images."""
    cells = {(trial.method, trial.n_train): trial for trial in trials}
    methods = dict.fromkeys(method for method, _ in cells)
    sizes = sorted({n_train for _, n_train in cells})
    width = max(map(len, methods))
    heads = "".join(f"  {f'{n} training images':>22}" for n in sizes)
    yield f"{f'digits 5 to 9, {trials[0].n_test} test images':<{width}}{heads}"
    yield " " * width + f"  {'accuracy':>12}{'seconds':>10}" * len(sizes)
    for method in methods:
        row = (cells[method, n] for n in sizes)
        yield f"{method:<{width}}" + "".join(f"  {t.accuracy:12.3f}{t.seconds:10.1f}" for t in row)
