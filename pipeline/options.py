"""What a user can ask of an extraction, typed and checked."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from permafrost.cache.hdf5.compression import COMPRESSIONS
from permafrost.pipeline.errors import PipelineError
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.preprocessing import PREPROCESS_MODES, VIEWS
from permafrost.stages.cores import count_cores
from permafrost.stages.decoding.decode import DECODE_MODES, ORIENT_MODES
from permafrost.stages.decoding.isolation import Isolation
from permafrost.stages.decoding.resizing import RESIZE_METHODS, RESIZE_MODES
from permafrost.stages.engines.registry import ENGINES
from permafrost.stages.errors import UnknownNameError
from permafrost.stages.frameworks.start import find_keras_backend
from permafrost.stages.numbers import parse_number

DEFAULT_MEMORY_BYTES = 4_000_000_000
DEFAULT_CACHE = Path(".permafrost")
DTYPES = ("float32", "float16")
PRECISIONS = ("float32", "bfloat16", "float16")
DECODINGS = DECODE_MODES
_BYTE_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions:
    """Which images, labels and splits.

    Attributes
    ----------
    images : str, optional
        A folder, a CSV, a zip, tar or npz file, or a URL.
    manifest : Path, optional
        What ``index`` wrote; instead of `images`.
    labels, split : str, optional
        Rules as on the command line; what the source itself says by default.
    split_names : str, optional
        What splits are called besides their usual names, as in ``holdout=test``.
    seed : int
        Of a random split.
    """

    images: str | None = None
    manifest: Path | None = None
    labels: str | None = None
    split: str | None = None
    split_names: str | None = None
    seed: int = 0

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
    backbone : str
    layers : tuple of str
        Layer specs.
    weights : str
    size : tuple of int, optional
        Height and width in pixels.
    resize, resize_mode, preprocess, view, orient, dtype, engine, precision, decode : str
    """

    backbone: str
    layers: tuple[str, ...]
    weights: str = "imagenet"
    size: tuple[int, int] | None = None
    resize: str = "bilinear"
    resize_mode: str = "stretch"
    preprocess: str = "auto"
    view: str = "identity"
    orient: str = "ignore"
    dtype: str = "float32"
    engine: str = "tensorflow"
    precision: str = "float32"
    decode: str = "exact"

    def __post_init__(self) -> None:
        if not self.layers:
            raise PipelineError("name at least one layer with --layers SPEC,SPEC")
        _check("resize method", self.resize, RESIZE_METHODS)
        _check("resize mode", self.resize_mode, RESIZE_MODES)
        _check("preprocessing", self.preprocess, ("auto", *PREPROCESS_MODES))
        _check("view", self.view, VIEWS)
        _check("orientation", self.orient, ORIENT_MODES)
        _check("dtype", self.dtype, DTYPES)
        _check("engine", self.engine, ENGINES)
        _check("precision", self.precision, PRECISIONS)
        _check("decoding", self.decode, DECODINGS)

    @property
    def full_engine(self) -> str:
        """The engine, with what else decides about the numbers: Keras' backend."""
        return f"keras-{find_keras_backend()}" if self.engine == "keras" else self.engine

    def to_json(self) -> str:
        """Write the options so that they mean the same anywhere: files by absolute path."""
        fields = asdict(self) | {"engine": self.full_engine}
        if parse_backbone(self.backbone).is_file:
            fields["backbone"] = str(Path(self.backbone).absolute())
        if self.weights not in ("imagenet", "random"):
            fields["weights"] = str(Path(self.weights).absolute())
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
    workers : int
        Threads that read and decode images.
    memory_bytes : int
        Budget for images and activations in flight.
    compression : str
    on_error : str
        ``"skip"`` or ``"fail"``.
    scheduler : str, optional
        Address of a Dask scheduler; threads of this process by default.
    materialize : bool
        Write values instead of pointers into ``features.h5``.
    isolation : Isolation, optional
        Decode in processes of their own, each image within these limits.
    """

    batch_size: int | None = None
    workers: int = field(default_factory=count_cores)
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    compression: str = "none"
    on_error: str = "skip"
    scheduler: str | None = None
    materialize: bool = False
    isolation: Isolation | None = None

    def __post_init__(self) -> None:
        _check("compression", self.compression, COMPRESSIONS)
        _check("--on-error", self.on_error, ("skip", "fail"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """Everything ``extract`` and ``plan`` need."""

    dataset: DatasetOptions
    features: FeatureOptions
    cache: Path = DEFAULT_CACHE
    run: RunOptions = field(default_factory=RunOptions)


def parse_bytes(text: str) -> int:
    """Read ``4GB``, ``500MB`` or ``1000000``."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    try:
        number = parse_number(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or number <= 0:
        raise PipelineError(f"cannot read {text!r} as an amount of memory; write it as 4GB")
    unit = _BYTE_UNITS[match[2].upper()]
    return int(number * (unit if not match[3] else 1024 ** (len(f"{unit:.0f}") // 3)))


def parse_size(text: str) -> tuple[int, int]:
    """Read ``224`` or ``224x320``, height first."""
    match = re.fullmatch(r"\s*([0-9]{1,9})(?:x([0-9]{1,9}))?\s*", text)
    if match is None or int(match[1]) < 1 or match[2] == "0":
        raise PipelineError(f"cannot read {text!r} as a size; write it as 224 or 224x320 (height)")
    return int(match[1]), int(match[2] or match[1])


def _check(kind: str, value: str, known: object) -> None:
    names = list(known)  # type: ignore[call-overload]
    if value not in names:
        raise UnknownNameError(kind, value, names)
