"""Options out of what was typed: from the parser's namespace to typed values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.cache.hdf5.compression import COMPRESSIONS
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import (
    DECODINGS,
    DEFAULT_CACHE,
    DTYPES,
    PRECISIONS,
    DatasetOptions,
    ExtractOptions,
    FeatureOptions,
    RunOptions,
    parse_bytes,
    parse_size,
)
from permafrost.stages.backbones.preprocessing import PREPROCESS_MODES, VIEWS
from permafrost.stages.cores import count_cores
from permafrost.stages.datasets.targets import CLASSIFICATION, TASKS
from permafrost.stages.decoding.decode import ORIENT_MODES
from permafrost.stages.decoding.isolation import Isolation
from permafrost.stages.decoding.resizing import RESIZE_METHODS, RESIZE_MODES
from permafrost.stages.engines.registry import ENGINES
from permafrost.stages.numbers import parse_number, parse_whole

if TYPE_CHECKING:
    from permafrost.pipeline.models.task import TaskOptions

    # Generic for the type checker only.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def read_extract_options(parsed: argparse.Namespace) -> ExtractOptions:
    """Read the options of `extract` and `plan`, as their parser gave them."""
    return ExtractOptions(
        dataset=DatasetOptions(
            images=parsed.images,
            manifest=parsed.manifest,
            labels=parsed.labels,
            split=parsed.split,
            split_names=parsed.split_names,
            seed=parsed.seed,
        ),
        features=FeatureOptions(
            backbone=parsed.backbone,
            layers=tuple(parsed.layers.split(",")),
            weights=parsed.weights,
            size=parsed.size,
            resize=parsed.resize,
            resize_mode=parsed.resize_mode,
            preprocess=parsed.preprocess,
            view=parsed.view,
            orient=parsed.orient,
            dtype=parsed.dtype,
            engine=parsed.engine,
            precision=parsed.precision,
            decode=parsed.decode,
        ),
        cache=Path(parsed.cache),
        run=read_run_options(parsed),
    )


def read_run_options(parsed: argparse.Namespace) -> RunOptions:
    """Read how a run goes about it."""
    return RunOptions(
        batch_size=_read_batch_size(parsed.batch_size),
        workers=read_workers(parsed),
        memory_bytes=parsed.memory,
        compression=parsed.compression,
        on_error=parsed.on_error,
        scheduler=parsed.scheduler,
        materialize=getattr(parsed, "materialize", False),
        isolation=_read_isolation(parsed),
    )


def _read_isolation(parsed: argparse.Namespace) -> Isolation | None:
    timeout_s = parsed.image_timeout
    if not parsed.isolate:
        if timeout_s is not None:
            raise PipelineError(f"--image-timeout {timeout_s:g} goes with --isolate; add it")
        return None
    return Isolation() if timeout_s is None else Isolation(timeout_s=timeout_s)


def _read_batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        size = parse_whole(text)
    except ValueError:
        size = 0
    if size < 1:
        raise PipelineError(f"--batch-size {text!r}: write auto or a number of images, as 32")
    return size


def read_workers(parsed: argparse.Namespace) -> int:
    """Read ``--workers``: the cores by default."""
    if parsed.workers is None:
        return count_cores()
    if parsed.workers < 1:
        raise PipelineError(f"--workers {parsed.workers}: at least 1 is needed")
    return int(parsed.workers)


def read_task_options(parsed: argparse.Namespace) -> TaskOptions:
    """Read what `fit` and `sweep` share."""
    from permafrost.pipeline.models.task import TaskOptions

    return TaskOptions(
        features=tuple(parsed.features),
        task=parsed.task,
        target=parsed.target,
        cv=parsed.cv,
        seed=parsed.seed,
        memory_bytes=parsed.memory,
    )


def read_whole(text: str) -> int:
    """Read an option that is a whole number, for its parser."""
    try:
        return parse_whole(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write it as 5") from None


def read_number(text: str) -> float:
    """Read an option that is a number, for its parser."""
    try:
        return parse_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write it as 0.5") from None


def split_names(text: str | None, option: str) -> tuple[str, ...] | None:
    """Split ``one,two``; None where the option was not given."""
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise PipelineError(f"{option} {text!r} has an empty name; write names as one,two")
    return tuple(dict.fromkeys(parts))


def read_settings(pairs: list[str]) -> dict[str, str]:
    """Read ``--set KEY=VALUE``, given any number of times."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or not key:
            raise PipelineError(f"--set {pair!r}: write it as KEY=VALUE, as in --set C=0.1")
        if key in settings:
            raise PipelineError(f"--set {key} is given twice; give it once (to sweep, as C=0.1,1)")
        settings[key] = value
    return settings


SOURCES = "a folder, .csv, .zip, .tar or .npz, or a URL as s3://bucket/photos/"


def add_extraction_options(parser: argparse.ArgumentParser) -> None:
    """Add what `extract` and `plan` share."""
    which = parser.add_argument_group("which images")
    which.add_argument("--images", metavar="SOURCE", help=SOURCES)
    which.add_argument("--manifest", type=Path, metavar="FILE", help="what index wrote")
    add_label_options(which)
    what = parser.add_argument_group("which features")
    what.add_argument("--backbone", required=True, metavar="B", help="vgg16, …, or a model file")
    what.add_argument(
        "--layers", required=True, metavar="SPEC,SPEC", help="as block2_pool,block5_pool:avg"
    )
    add_backbone_options(what)
    what.add_argument("--resize", default="bilinear", choices=list(RESIZE_METHODS))
    what.add_argument("--resize-mode", default="stretch", choices=list(RESIZE_MODES))
    what.add_argument("--preprocess", default="auto", choices=["auto", *PREPROCESS_MODES])
    what.add_argument("--view", default="identity", choices=VIEWS)
    what.add_argument("--orient", default="ignore", choices=ORIENT_MODES)
    what.add_argument("--dtype", default="float32", choices=DTYPES)
    what.add_argument(
        "--engine", default="tensorflow", choices=ENGINES,
        help="keras runs on the backend that Keras is set to: KERAS_BACKEND=jax|torch|tensorflow",
    )  # fmt: skip
    what.add_argument(
        "--precision", default="float32", choices=PRECISIONS,
        help="of the products: bfloat16 on processors that have it, float16 on GPUs",
    )  # fmt: skip
    what.add_argument("--decode", default="exact", choices=DECODINGS)
    add_cache(parser)
    parser.add_argument(
        "--materialize", action="store_true", help="copy the values into features.h5"
    )
    add_run_options(parser)


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add what `fit` and `sweep` share."""
    parser.add_argument(
        "--features", type=Path, required=True, action="append", metavar="F.h5",
        help="may be repeated: the layers of several backbones side by side",
    )  # fmt: skip
    parser.add_argument("--task", default=CLASSIFICATION, choices=TASKS)
    parser.add_argument(
        "--target", default="label", metavar="COLUMN", help="the column with the truth"
    )
    parser.add_argument("--cv", type=read_whole, metavar="K", help="cross-validate with K folds")
    parser.add_argument(
        "--seed",
        type=read_whole,
        default=0,
        metavar="N",
        help="of folds, held-out rows and weights",
    )
    parser.add_argument(
        "--memory", type=parse_bytes, default="4GB", metavar="4GB", help="what features may take"
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache``."""
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR")


def add_label_options(parser: argparse._ActionsContainer) -> None:
    """Add the rules of labels and splits."""
    parser.add_argument(
        "--labels", metavar="RULE", help="folder, filename:REGEX or csv:FILE (default: by source)"
    )
    parser.add_argument(
        "--split", metavar="RULE", help="predefined, none, or test=0.3,val=0.1 (default: by source)"
    )
    parser.add_argument(
        "--split-names", metavar="NAME=SPLIT",
        help="what splits are called besides train, val and test, as in holdout=test,eval=val",
    )  # fmt: skip
    parser.add_argument("--seed", type=read_whole, default=0, metavar="N", help="of a random split")


def add_backbone_options(parser: argparse._ActionsContainer) -> None:
    """Add a backbone's weights and size."""
    parser.add_argument("--weights", default="imagenet", metavar="imagenet|random|FILE")
    parser.add_argument("--size", type=parse_size, metavar="N", help="input size in pixels")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add how a run goes about it, which changes no number."""
    how = parser.add_argument_group("how (changes no number)")
    how.add_argument("--batch-size", default="auto", metavar="auto|N")
    how.add_argument("--memory", type=parse_bytes, default="4GB", metavar="4GB")
    how.add_argument("--compression", default="none", choices=COMPRESSIONS)
    how.add_argument("--on-error", default="skip", choices=["skip", "fail"])
    how.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that decodes")
    add_workers(how)
    how.add_argument(
        "--isolate", action="store_true",
        help="decode in processes of their own: a codec that crashes or hangs loses one image",
    )  # fmt: skip
    how.add_argument(
        "--image-timeout", type=read_number, metavar="SECONDS",
        help="of one image, with --isolate (default: 60)",
    )  # fmt: skip


def add_workers(parser: argparse._ActionsContainer) -> None:
    """Add ``--workers``."""
    parser.add_argument(
        "--workers", type=read_whole, metavar="N", help="threads (default: the cores)"
    )
