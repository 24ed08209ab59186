"""The commands `show`, `search` and `doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from permafrost.pipeline.cli.groups import (
    Outcome,
    add_cache,
    add_options,
    add_run_options,
    read_run_options,
)
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions, read_options
from permafrost.pipeline.parsers import parse_layers

_PICTURES = Path("runs/looks")


def add_show(parser: argparse.ArgumentParser) -> None:
    """Add the options of `show`."""
    parser.add_argument(
        "thing", type=Path, nargs="?", metavar="THING",
        help="a cache, a features.h5, what fit, sweep or run wrote, a manifest.csv, an"
        " experiment.yaml",
    )  # fmt: skip
    image = parser.add_argument_group("one image")
    image.add_argument("--image", type=Path, metavar="FILE", help="in place of THING")
    image.add_argument(
        "--model", type=Path, metavar="DIR", help="what fit wrote: draw where its head looks"
    )
    image.add_argument(
        "--features", type=Path, action="append", default=[], metavar="F.h5",
        help="where the nearest images are sought (default: what the model was fitted on)",
    )  # fmt: skip
    image.add_argument(
        "--out", type=Path, metavar="FILE.png", help=f"the picture (default: in {_PICTURES})"
    )
    network = parser.add_argument_group("or the maps of a network, without a model")
    network.add_argument("--backbone", metavar="B", help="vgg16, …, or a model file")
    network.add_argument(
        "--layers", type=parse_layers, metavar="NAME,NAME", help="maps, as block2_pool,block5_pool"
    )
    names = ("weights", "size", "resize", "resize_mode", "preprocess", "view", "orient", "engine")
    add_options(network, FeatureOptions, *names)
    add_cache(parser)
    add_run_options(parser)


def run_show(parsed: argparse.Namespace) -> Outcome:
    """Run `show`."""
    from permafrost.pipeline.tables import render

    if (parsed.thing is None) == (parsed.image is None):
        raise PipelineError("name one thing to show, or one image: show THING, or show --image X")
    if parsed.image is not None:
        return _show_image(parsed)
    for name in ("model", "features", "out", "backbone", "layers"):
        if getattr(parsed, name):
            raise PipelineError(
                f"--{name} goes with --image FILE, not with {str(parsed.thing)!r}; drop one"
            )
    from permafrost.pipeline.inspection.things import show

    parts, figures = show(parsed.thing)
    return Outcome(render(parts), figures)


def _show_image(parsed: argparse.Namespace) -> Outcome:
    from permafrost.pipeline.tables import render

    if (parsed.model is None) == (parsed.backbone is None):
        raise PipelineError(
            "--image goes with --model DIR, to see where its head looks, or with --backbone B"
            " --layers L,L, to see the layers' maps"
        )
    out = _name_picture(parsed)
    if parsed.model is None:
        if parsed.layers is None:
            raise PipelineError("--backbone goes with --layers L,L: name the maps to see")
        from permafrost.pipeline.looking.activations import show_activations

        features = read_options(FeatureOptions, vars(parsed))
        run = read_run_options(parsed)
        shown = show_activations(parsed.image, features, cache=parsed.cache, run=run, out=out)
        return Outcome(render(shown[0]), shown[1])
    from permafrost.pipeline.looking.class_view import LookOptions, look
    from permafrost.pipeline.looking.drawing import draw_look

    options = LookOptions(
        image=parsed.image,
        model=parsed.model,
        features=tuple(parsed.features),
        cache=parsed.cache,
        run=read_run_options(parsed),
        out=out,
    )
    found = look(options)
    draw_look(found, out)
    text = render([*found.describe(), f"→ {out}"])
    return Outcome(text, found.to_dict() | {"picture": str(out)})


def _name_picture(parsed: argparse.Namespace) -> Path:
    """Return the file of the picture, refused before any work where none can be written."""
    out: Path = parsed.out or _PICTURES / f"{parsed.image.stem}.png"
    if out.suffix.lower() != ".png" or out.is_dir():
        raise PipelineError(f"--out {str(out)!r}: name a file that ends in .png")
    return out


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options of `search`."""
    from permafrost.pipeline.looking.search import SearchOptions

    parser.add_argument(
        "--features", type=Path, required=True, action="append", metavar="F.h5",
        help="where to search; may be repeated: the layers of several backbones side by side",
    )  # fmt: skip
    parser.add_argument(
        "--layer", required=True, metavar="SPEC",
        help="what images are compared by, as block5_pool:avg; for a text, image_embedding",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    add_options(what, SearchOptions, "text", "image")
    add_options(parser, SearchOptions, "n", "out")
    add_cache(parser)
    add_run_options(parser)


def run_search(parsed: argparse.Namespace) -> Outcome:
    """Run `search`."""
    from permafrost.pipeline.looking.search import SearchOptions, search
    from permafrost.pipeline.tables import render

    given = vars(parsed) | {"run": read_run_options(parsed)}
    parts, figures = search(read_options(SearchOptions, given))
    return Outcome(render(parts), figures)


def run_doctor(parsed: argparse.Namespace) -> Outcome:
    """Run `doctor`."""
    from permafrost.pipeline.inspection.doctor import diagnose
    from permafrost.pipeline.tables import render

    found = diagnose(parsed.cache)
    return Outcome(render(found.describe()), found.to_dict())
