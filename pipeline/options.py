"""What a user can ask of an extraction, typed and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from permafrost.cache.hdf5.compression import COMPRESSIONS
from permafrost.cache.shards.format import DTYPES
from permafrost.cores import count_cores
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.parsers import (
    Part,
    parse_batch_size,
    parse_bytes,
    parse_layers,
    parse_names,
    parse_part,
    parse_size,
    read_whole,
)
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.preprocessing import (
    OWN_MODE,
    PREPROCESS_MODES,
    VIEWS,
    parse_mode,
    parse_views,
)
from permafrost.stages.decoding.choices import DECODE_MODES, ORIENT_MODES, Isolation
from permafrost.stages.decoding.resizing import RESIZE_METHODS, RESIZE_MODES
from permafrost.stages.engines.registry import ENGINES
from permafrost.stages.errors import UnknownNameError
from permafrost.stages.frameworks.start import find_keras_backend
from permafrost.stages.shortcuts.choice import PLAIN

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)
    T = TypeVar("T")

DEFAULT_MEMORY_BYTES = 4_000_000_000
DEFAULT_CACHE = Path(".permafrost")
# Of an option that names a folder to write.
OUT: dict[str, Any] = {"type": Path, "metavar": "DIR", "help": "a folder for what is found"}
PRECISIONS = ("float32", "bfloat16", "float16")
SOURCES = (
    "a folder, .csv, .zip, .tar, .npz or .parquet, shards as 'train-{000..009}.tar', or a URL as"
    " s3://bucket/photos/"
)
GROUP_HELP = "keep rows with one value in one split or fold (default: group, if there is one)"


def declare(default: T, **metadata: Any) -> T:
    """Declare a field as an option, once for all that show, read or check it.

    The metadata is what `add_argument` of the command line takes; and, where the field's name does
    not do, a `flag` in its place there and in experiment files, and a `kind` in its place in
    errors. A field whose metadata is ``options`` holds a group of such fields itself.
    """
    return field(default=default, metadata=metadata)


def name_key(option: Field[Any]) -> str:
    """Return what an option is called in an experiment file: as its flag, with ``_``."""
    flag: str = option.metadata.get("flag", option.name)
    return flag.removeprefix("--").replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions:
    """Which images, labels and splits.

    Attributes
    ----------
    manifest : Path, optional
        What ``index`` wrote; instead of `images`.
    labels, split : str, optional
        Rules as on the command line; what the source itself says by default.
    """

    images: str | None = declare(None, metavar="SOURCE", help=SOURCES)
    manifest: Path | None = field(
        default=None, metadata={"type": Path, "metavar": "FILE", "help": "what index wrote"}
    )
    labels: str | None = declare(
        None,
        metavar="RULE",
        help="folder, filename:REGEX, column:NAME, csv:FILE or coco:FILE (default: by source)",
    )
    split: str | None = declare(
        None, metavar="RULE", help="predefined, none, or test=0.3,val=0.1 (default: by source)"
    )
    split_names: str | None = declare(
        None,
        metavar="NAME=SPLIT",
        help="what splits are called besides train, val and test, as in holdout=test,eval=val",
    )
    seed: int = declare(0, type=read_whole, metavar="N", help="of a random split")
    group: str | None = declare(None, metavar="COLUMN", help=GROUP_HELP)
    classes: tuple[str, ...] | None = declare(
        None, type=parse_names, metavar="A,B", help="only the images of these classes"
    )

    def __post_init__(self) -> None:
        if (self.images is None) == (self.manifest is None):
            raise PipelineError("name the images with --images SOURCE or with --manifest FILE")
        if self.manifest is not None and self.labels is not None:
            raise PipelineError(
                f"--labels {self.labels!r} goes with --images; a manifest has its own labels"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureOptions:
    """What determines the numbers: everything here is part of the recipe.

    Attributes
    ----------
    size : tuple of int, optional
        Height and width in pixels.
    view : str
        One or several with commas between: each is a feature set of its own.
    """

    backbone: str = field(
        metadata={"metavar": "B", "help": "vgg16, …, a model file, hub:PRESET, or none"}
    )
    layers: tuple[str, ...] = field(
        metadata={
            "type": parse_layers,
            "metavar": "SPEC,SPEC",
            "help": "as block2_pool,block5_pool:avg; pixels is the image itself",
        }
    )
    weights: str = declare(
        "imagenet",
        metavar="imagenet|random|FILE",
        help="of an application; model files bring their own",
    )
    size: tuple[int, int] | None = declare(
        None, type=parse_size, metavar="N", help="input size in pixels (default: its own)"
    )
    resize: str = declare(
        "bilinear", choices=RESIZE_METHODS, kind="resize method", help="how pixels are interpolated"
    )
    resize_mode: str = declare(
        "stretch",
        choices=RESIZE_MODES,
        kind="resize mode",
        help="what becomes of other proportions: all of it stretched, the centre, or all on black",
    )
    preprocess: str = declare(
        "auto",
        metavar="MODE",
        help=f"{', '.join(('auto', *PREPROCESS_MODES))}, or {OWN_MODE}, on pixels from 0 to 255",
    )
    view: str = declare(
        "identity",
        type=parse_views,
        metavar="VIEW,VIEW",
        help=f"{', '.join(VIEWS)}; each of several is a feature set of its own",
    )
    orient: str = declare(
        "ignore", choices=ORIENT_MODES, kind="orientation", help="exif turns photos as they ask"
    )
    dtype: str = declare("float32", choices=DTYPES, help="what is stored")
    engine: str = declare(
        "tensorflow",
        choices=ENGINES,
        help="keras runs on the backend that Keras is set to: KERAS_BACKEND=jax|torch|tensorflow",
    )
    precision: str = declare(
        "float32",
        choices=PRECISIONS,
        help="of the products: bfloat16 on processors that have it, float16 on GPUs",
    )
    decode: str = declare(
        "exact",
        choices=DECODE_MODES,
        kind="decoding",
        help="fast decodes photos that are much larger than needed at a part of their size",
    )

    def __post_init__(self) -> None:
        if not self.layers:
            raise PipelineError("name at least one layer with --layers SPEC,SPEC")
        object.__setattr__(self, "preprocess", parse_mode(self.preprocess))
        object.__setattr__(self, "view", parse_views(self.view))
        _check_choices(self)

    @property
    def views(self) -> tuple[str, ...]:
        """The views, in the order asked for."""
        return tuple(self.view.split(","))

    @property
    def full_engine(self) -> str:
        """The engine, with what else decides about the numbers: Keras' backend."""
        return f"keras-{find_keras_backend()}" if self.engine == "keras" else self.engine

    def to_json(self) -> str:
        """Write the options so that they mean the same anywhere: files by absolute path."""
        fields = asdict(self) | {"engine": self.full_engine}
        name = parse_backbone(self.backbone)
        if name.path:
            fields["backbone"] = name.make_absolute()
        if self.weights not in ("imagenet", "random"):
            fields["weights"] = os.path.abspath(self.weights)  # noqa: PTH100 - folds ".."
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> FeatureOptions:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            It is something else.
        PipelineError
            Keras is set to another backend than the one that these features were computed on.
        """
        try:
            fields = json.loads(text)
            engine, _, backend = fields.pop("engine").partition("-")
            layers, size = tuple(fields.pop("layers")), fields.pop("size")
            size = None if size is None else (int(size[0]), int(size[1]))
            if not all(isinstance(value, str) for value in (*layers, *fields.values())):
                raise TypeError("a name is no text")
            options = cls(layers=layers, size=size, engine=engine, **fields)
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"these are no options of features: {error}") from error
        if backend and backend != find_keras_backend():
            raise PipelineError(
                f"the features are of --engine keras on {backend}, and Keras is set to"
                f" {find_keras_backend()}; set KERAS_BACKEND={backend}"
            )
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run goes about it; nothing here changes a number.

    Attributes
    ----------
    batch_size : int, optional
        Chosen from the memory budget if not given.
    memory_bytes : int
        Budget for the plan, and for images and activations in flight.
    workers : int, optional
        Threads that read and decode images, here or on each worker of a cluster; by default as many
        as there are cores.
    materialize : bool
        Write values instead of pointers into ``features.h5``.
    isolation : Isolation, optional
        Decode in processes of their own, each image within these limits.
    """

    batch_size: int | None = declare(
        None,
        type=parse_batch_size,
        metavar="auto|N",
        help="images that go through the network at once (default: auto, as --memory allows)",
    )
    memory_bytes: int = declare(
        DEFAULT_MEMORY_BYTES,
        flag="--memory",
        type=parse_bytes,
        metavar="BYTES",
        help="budget of all that is held at once, as 500MB",
    )
    compression: str = declare(
        "none", choices=COMPRESSIONS, help="of the cache; lz4 and zstd need hdf5plugin to read"
    )
    program: str = declare(
        "auto",
        choices=("auto", PLAIN),
        help="auto times ways to compute the same (to 1e-5), and remembers the fastest; plain is"
        " Keras' own",
    )
    on_error: str = declare(
        "skip",
        choices=("skip", "fail"),
        kind="--on-error",
        help="what an image that cannot be read does: it is left out and listed, or stops the run",
    )
    scheduler: str | None = declare(
        None,
        metavar="ADDRESS",
        help="of a Dask cluster that computes; local:N starts N processes here",
    )
    workers: int | None = declare(
        None, type=read_whole, metavar="N", help="threads that decode (default: the cores)"
    )
    materialize: bool = False
    isolation: Isolation | None = None

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.workers is not None and self.workers < 1:
            raise PipelineError(f"--workers {self.workers}: at least 1 is needed")
        if self.scheduler == "":  # as a shell makes it of a variable that is not set
            raise PipelineError("--scheduler '': name an address, as tcp://host:8786, or drop it")

    @property
    def n_threads(self) -> int:
        """How many threads read and decode images in this process."""
        return count_cores() if self.workers is None else self.workers


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """Everything ``extract`` and ``plan`` need.

    Attributes
    ----------
    part : Part, optional
        Only these rows of the dataset; then no ``features.h5`` is written.
    """

    dataset: DatasetOptions
    features: FeatureOptions
    cache: Path = DEFAULT_CACHE
    run: RunOptions = field(default_factory=RunOptions)
    part: Part | None = field(
        default=None,
        metadata={
            "type": parse_part,
            "metavar": "I/N",
            "help": "fill the cache with the I-th of N parts alone, as one job of an array does",
        },
    )


def read_options(options: type[Options], given: Mapping[str, Any]) -> Options:
    """Build options from what was given under the names of their fields; ignore the rest."""
    read: dict[str, Any] = {}
    for option in fields(options):
        if option.name in given:
            value = given[option.name]
            read[option.name] = tuple(value) if isinstance(value, list) else value
        elif "options" in option.metadata:
            read[option.name] = read_options(option.metadata["options"], given)
    return options(**read)


def _check_choices(options: FeatureOptions | RunOptions) -> None:
    for option in fields(options):
        value, choices = getattr(options, option.name), option.metadata.get("choices")
        if choices is not None and value not in tuple(choices):
            raise UnknownNameError(option.metadata.get("kind", option.name), value, choices)
