"""What can be typed: one parser a command, options in groups that commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from permafrost.cache.shards.writer import COMPRESSIONS
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import (
    DECODINGS,
    DEFAULT_CACHE,
    DTYPES,
    ENGINES,
    PRECISIONS,
    parse_bytes,
    parse_size,
)
from permafrost.stages.backbones.applications import PREPROCESS_MODES
from permafrost.stages.datasets.targets import CLASSIFICATION, TASKS
from permafrost.stages.decoding.decode import ORIENT_MODES, RESIZE_METHODS, RESIZE_MODES
from permafrost.stages.engines.tracing import VIEWS
from permafrost.stages.heads import HEADS

_SOURCES = "a folder, .csv, .zip, .tar or .npz, or a URL as s3://bucket/photos/"

if TYPE_CHECKING:
    # Generic for the type checker only.
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise PipelineError(f"{message}; see: python {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    parser: argparse.ArgumentParser = _Parser(
        prog="run.py",
        description="Push images through a frozen network once, keep the activations, and fit as"
        " many light heads on them as you like.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_demo, _add_layers, _add_index, _add_extract, _add_plan, _add_fit, _add_sweep,
        _add_predict, _add_export, _add_run, _add_verify, _add_repair, _add_gc, _add_compact,
    ):  # fmt: skip
        command = add(commands)
        command.add_argument(
            "--json", action="store_true", help="print one JSON object as the last line of stdout"
        )
    return parser


def _add_demo(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "demo", help="see all of it work, offline, on embedded data, in about a minute"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    return parser


def _add_layers(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("layers", help="list a backbone's layers, shapes and sizes")
    parser.add_argument("backbone", metavar="BACKBONE")
    _add_backbone_options(parser)
    return parser


def _add_index(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("index", help="list a dataset's images, labels and splits")
    parser.add_argument("images", metavar="SOURCE", help=_SOURCES)
    parser.add_argument("--out", type=Path, required=True, metavar="manifest.csv")
    _add_label_options(parser)
    _add_workers(parser)
    return parser


def _add_extract(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("extract", help="compute activations, and write features.h5")
    _add_extraction_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="features.h5")
    return parser


def _add_plan(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("plan", help="say what extract would do; compute nothing")
    _add_extraction_options(parser)
    parser.add_argument("--out", type=Path, metavar="features.h5", help="ignored here")
    return parser


def _add_fit(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("fit", help="fit a head on cached features")
    _add_task_options(parser)
    parser.add_argument(
        "--layer", required=True, metavar="SPEC", help="as block5_pool:avg; A+B joins two"
    )
    parser.add_argument("--head", required=True, metavar="|".join(HEADS))
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="a setting of the head, as C=0.1 or hidden=256,128; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser


def _add_sweep(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "sweep", help="try layers, poolings, heads and settings on the same folds, and rank them"
    )
    _add_task_options(parser)
    parser.add_argument(
        "--layers", metavar="SPEC,SPEC", help="as block2_pool:avg,A+B (default: all there are)"
    )
    parser.add_argument(
        "--poolings", metavar="avg,max,flatten", help="try these on every layer that is a map"
    )
    parser.add_argument("--heads", required=True, metavar=",".join(HEADS))
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=V1,V2",
        help="values to try, of all heads that have the setting, as C=0.1,1, or of one, as"
        " mlp.hidden=[256],[256,128]; may be repeated",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: the cores)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser


def _add_export(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "export", help="write backbone, preprocessing and head as one Keras model"
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="what fit wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="classifier.keras")
    return parser


def _add_predict(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("predict", help="classify new images with a fitted head")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="what fit wrote")
    parser.add_argument("--images", required=True, metavar="SOURCE", help=_SOURCES)
    parser.add_argument("--out", type=Path, required=True, metavar="predictions.csv")
    _add_cache(parser)
    _add_run_options(parser)
    return parser


def _add_run(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "run", help="do all of it from one file, computing only what is missing"
    )
    parser.add_argument("experiment", type=Path, metavar="experiment.yaml")
    _add_run_options(parser)
    return parser


def _add_verify(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("verify", help="read all of a cache, and name all damage")
    _add_cache(parser)
    parser.add_argument(
        "--sample", type=float, metavar="P",
        help="also compute this share of the rows again from their images, as 0.01, and compare",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample")
    _add_run_options(parser)
    return parser


def _add_repair(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("repair", help="mend what verify finds; compute what is damaged")
    _add_cache(parser)
    _add_run_options(parser)
    return parser


def _add_gc(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "gc",
        help="drop what nobody needs from a cache: by rule; and always what killed runs left, and"
        " rows that are there twice",
    )
    _add_cache(parser)
    parser.add_argument(
        "--keep-days", type=float, metavar="N", help="drop feature sets not used for N days"
    )
    parser.add_argument(
        "--unused-by", type=Path, nargs="+", action="extend", default=[], metavar="MANIFEST",
        help="drop the rows of images that are in none of these manifests or features.h5",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would go; touch nothing")
    return parser


def _add_compact(commands: _Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("compact", help="merge the small shards of a cache")
    _add_cache(parser)
    return parser


def _add_extraction_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument_group("which images")
    which.add_argument("--images", metavar="SOURCE", help=_SOURCES)
    which.add_argument("--manifest", type=Path, metavar="FILE", help="what index wrote")
    _add_label_options(which)
    what = parser.add_argument_group("which features")
    what.add_argument("--backbone", required=True, metavar="B", help="vgg16, …, or a model file")
    what.add_argument(
        "--layers", required=True, metavar="SPEC,SPEC", help="as block2_pool,block5_pool:avg"
    )
    _add_backbone_options(what)
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
    _add_cache(parser)
    parser.add_argument(
        "--materialize", action="store_true", help="copy the values into features.h5"
    )
    _add_run_options(parser)


def _add_task_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--features", type=Path, required=True, action="append", metavar="F.h5",
        help="may be repeated: the layers of several backbones side by side",
    )  # fmt: skip
    parser.add_argument("--task", default=CLASSIFICATION, choices=TASKS)
    parser.add_argument(
        "--target", default="label", metavar="COLUMN", help="the column with the truth"
    )
    parser.add_argument("--cv", type=int, metavar="K", help="cross-validate with K folds")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of folds, held-out rows and weights"
    )
    parser.add_argument(
        "--memory", type=parse_bytes, default="4GB", metavar="4GB", help="what features may take"
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR")


def _add_label_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--labels", metavar="RULE", help="folder, filename:REGEX or csv:FILE (default: by source)"
    )
    parser.add_argument(
        "--split", metavar="RULE", help="predefined, or test=0.3,val=0.1 (default: by source)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a random split")


def _add_backbone_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--weights", default="imagenet", metavar="imagenet|random|FILE")
    parser.add_argument("--size", type=parse_size, metavar="N", help="input size in pixels")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how (changes no number)")
    how.add_argument("--batch-size", default="auto", metavar="auto|N")
    how.add_argument("--memory", type=parse_bytes, default="4GB", metavar="4GB")
    how.add_argument("--compression", default="none", choices=COMPRESSIONS)
    how.add_argument("--on-error", default="skip", choices=["skip", "fail"])
    how.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that decodes")
    _add_workers(how)
    how.add_argument(
        "--isolate", action="store_true",
        help="decode in processes of their own: a codec that crashes or hangs loses one image",
    )  # fmt: skip
    how.add_argument(
        "--image-timeout", type=float, metavar="SECONDS",
        help="of one image, with --isolate (default: 60)",
    )  # fmt: skip


def _add_workers(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: the cores)")
