"""What people and files say in text: the only outcomes are a value and one line of our own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from permafrost.cache.store.folders import open_feature_set_folder, read_recipe
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.recipe import Recipe, canonical_json, recipe_key
from permafrost.cache.store.records import (
    RECORD_FILES,
    Cost,
    Drift,
    Parity,
    read_record,
    write_record,
)
from permafrost.pipeline.cli.groups import read_settings
from permafrost.pipeline.experiments.experiment import read_experiment
from permafrost.pipeline.export.classifier import load_classifier
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.parsers import parse_bytes, parse_names, parse_size
from permafrost.pipeline.sweeps.grid import split_values
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import parse_layer_spec, parse_layer_specs
from permafrost.stages.datasets.manifest import Manifest, read_manifest, write_manifest
from permafrost.stages.datasets.splits import assign_splits
from permafrost.stages.datasets.targets import parse_targets
from permafrost.stages.errors import StageError
from permafrost.stages.heads import HEADS, fit_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.sources.source import find_file, open_source
from tests.fuzz.mutation import mutate
from tests.helpers import ROOT
from tests.helpers.manifests import build_manifest

RECIPE: Recipe = {"backbone": "tiny", "layer": "conv/1", "pooling": "none", "size": [32, 32]}
_EXAMPLES = ROOT / "examples"

# What a target returns that has caught an error of our own.
REFUSED = "refused"
ANYTHING = st.text(max_size=30) | st.text(
    "0123456789.,:=x()[]{}'\"-+eEGBMKTi _a!&*/\\", max_size=30
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something that reads what it is given.

    Attributes
    ----------
    inputs : strategy
    read : callable
        Takes an input and a folder of its own.
    """

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]


# YAML and CSV


def _read_experiment(content: bytes, folder: Path) -> object:
    file = folder / "experiment.yaml"
    file.write_bytes(content)
    return read_experiment(file)


_YAML_TOKENS = [
    *(b"&a ", b"*a", b"<<: *a", b"!!python/object/apply:os.system [x]", b"!!binary x", b"!!set {}"),
    *(b"? ", b": ", b"- ", b"\n  ", b"\n", b"{", b"}", b"[", b"]", b"|", b">", b"'", b'"', b"\t"),
    *(b".nan", b"-.inf", b"null", b"~", b"1e999", b"9" * 5000, b"0x", b"2024-13-01", b"1:2:3"),
    *(b"---\n", b"...", b"%YAML 9.9\n", b"\xff\xfe", b"\x00", b"[" * 2000, b"- " * 500, b"#"),
    *(b"kind", b"heads", b"split", b"C", b"hidden", b"layers", b"images: x\n", b"=", b"yes"),
]
_CSV_TOKENS = [
    *(b"\x00", b"\r", b"\n", b'"', b'""', b",", b";", b"\xff\xfe", b"\xef\xbb\xbf", b"x" * 140_000),
    *(b"./", b"'", b"=1", b"-", b"\t", b"../", b"/", b"path", b"label", b"digest", b",," * 1000),
    *(b"\xed\xa0\x80", "＝".encode(), b"\xc3\xa9", b"root", b"split", b"test", b"ab" * 32),
]
_CSV_SAMPLES = [
    b"path,label,split,digest,root\na.jpg,cat,train,,.\nb/c.jpg,dog,test," + b"ab" * 32 + b",.\n",
    b'filename,class,age,"a,b"\n"x,y.jpg",\'=1,3,"multi\nline"\n./=z.png,-,4,\n',
]


def _read_manifest(content: bytes, folder: Path) -> None:
    file, copy = folder / "manifest.csv", folder / "copy.csv"
    file.write_bytes(content)
    manifest = read_manifest(file)
    write_manifest(manifest, copy)
    if read_manifest(copy) != manifest and len(manifest):
        raise AssertionError(f"{manifest} came back as {read_manifest(copy)}")


def _join_labels(content: bytes, folder: Path) -> Manifest:
    images = folder / "images"
    (images / "b").mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "b/c.jpg", "=z.png"):
        (images / name).touch()
    file = folder / "labels.csv"
    file.write_bytes(content)
    return build_manifest(str(images), labels=f"csv:{file}")


# JSON

_JSON_TOKENS = [
    *(b"[" * 100_000, b'{"a":' * 2000, b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"null", b"-1"),
    *(b'"\\ud800"', b"\x00", b"{", b"}", b"[", b"]", b",", b":", b'"', b"true", b"[]", b"{}", b"1"),
    *(b'"layers"', b'"parts"', b'"recipe"', b'"features"', b'"format":2', b'"kind"', b"\xff"),
    *(b'"/etc/passwd"', b'"a":1,"a":2', b"1.5", b'"x"'),
]
_OPTIONS = FeatureOptions(backbone="vgg16", layers=("block5_pool:avg",), size=(64, 64))
_MODEL = {
    "task": "classification",
    "target": "label",
    "parts": [
        {"layer": "conv", "recipe": dict(RECIPE), "features": json.loads(_OPTIONS.to_json())}
    ],
}
_HEAD = {
    "kind": "logreg",
    "settings": {"C": 1.0, "scale": "l2"},
    "task": "classification",
    "classes": ["a", "b"],
    "n_features": 4,
}


def _as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def _fit_head(folder: Path) -> None:
    """Leave a real head, so that what is changed around it can be read to the end."""
    targets, _ = parse_targets(["a", "b"] * 4, task="classification", names=["x"] * 8)
    values = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    settings = parse_settings("logreg", {"scale": "l2"})
    matrix = ArrayMatrix(values)
    fit_head("logreg", settings, matrix, targets, train=np.arange(8), seed=0).save(folder)


def _load_classifier(content: bytes, folder: Path, *, name: str) -> object:
    if not (folder / "head").exists():
        _fit_head(folder / "head")
    (folder / "model.json").write_bytes(_as_json(_MODEL))
    (folder / "head" / "head.json").write_bytes(_as_json(_HEAD))
    (folder / name).write_bytes(content)
    return load_classifier(folder)


def _open_cache(content: bytes, folder: Path) -> None:
    (folder / "format.json").write_bytes(content)
    open_cache(folder)


def _read_recipe(content: bytes, folder: Path) -> None:
    layout = CacheLayout(folder)
    place = open_feature_set_folder(layout, RECIPE)
    (place / "recipe.json").write_bytes(content)
    try:
        if recipe_key(read_recipe(layout, place)) != recipe_key(RECIPE):
            raise AssertionError("another recipe is taken for this one")
        open_feature_set_folder(layout, RECIPE)
    finally:
        (place / "recipe.json").write_text(canonical_json(RECIPE))


def _read_records(content: bytes, folder: Path) -> object:
    n_read = 0
    for kind in (Parity, Drift, Cost):
        for name in RECORD_FILES.values():
            (folder / name).write_bytes(content)
        found = read_record(folder, kind)
        if found is not None:
            n_read += 1
            write_record(folder, found)
            if read_record(folder, kind) not in (found, None):
                raise AssertionError(f"{found} came back as {read_record(folder, kind)}")
    return n_read or REFUSED


def _read_origin(content: bytes, folder: Path) -> object:
    try:
        return FeatureOptions.from_json(content.decode(errors="surrogateescape"))
    except ValueError:
        return REFUSED


# The command line


def _parse_set(pairs: list[str], folder: Path) -> None:
    settings = read_settings(pairs)
    for kind in HEADS:
        for name, text in settings.items():
            for value in split_values(name, text):
                with contextlib.suppress(StageError):
                    parse_settings(kind, {name: value})


def _check_location(text: str) -> str:
    # Real addresses are for the tests of remote sources.
    return text.replace("://", ":/")


def _open_location(text: str, folder: Path) -> object:
    source = open_source(_check_location(text))
    return source.fingerprints(source.file_keys([text]))


def _find_file(text: str, folder: Path) -> object:
    (folder / "there.jpg").touch()
    return find_file(_check_location(text.replace("HERE", str(folder)))) or REFUSED


def _split(text: str, folder: Path) -> object:
    manifest = Manifest(
        root=".",
        paths=[f"{n}.jpg" for n in range(20)],
        labels=["a", "b"] * 10,
        splits=[""] * 20,
        digests=[bytes([n]) * 32 for n in range(20)],
    )
    return assign_splits(manifest, text)


def _label(text: str, folder: Path) -> object:
    (folder / "a").mkdir(exist_ok=True)
    (folder / "a" / "a.jpg").touch()
    return build_manifest(str(folder), labels=text)


_SETTINGS = [
    f"{name}={value}"
    for name in ("C", "hidden", "class_weight", "epochs", "scale", "dropout", "weights", "tol")
    for value in ("1", "[256],[1,2]", "cat:1,dog:2", "nan", "1e999", "inf", "-1", "none", "[", "")
]

TARGETS: Mapping[str, Target] = {
    "experiment.yaml": Target(
        inputs=mutate(
            [file.read_bytes() for file in sorted(_EXAMPLES.glob("*.yaml"))], _YAML_TOKENS
        ),
        read=_read_experiment,
    ),
    "manifest.csv": Target(inputs=mutate(_CSV_SAMPLES, _CSV_TOKENS), read=_read_manifest),
    "labels.csv": Target(inputs=mutate(_CSV_SAMPLES, _CSV_TOKENS), read=_join_labels),
    "model.json": Target(
        inputs=mutate([_as_json(_MODEL)], _JSON_TOKENS),
        read=lambda content, folder: _load_classifier(content, folder, name="model.json"),
    ),
    "head.json": Target(
        inputs=mutate([_as_json(_HEAD)], _JSON_TOKENS),
        read=lambda content, folder: _load_classifier(content, folder, name="head/head.json"),
    ),
    "format.json": Target(inputs=mutate([b'{"format": 1}'], _JSON_TOKENS), read=_open_cache),
    "recipe.json": Target(
        inputs=mutate([canonical_json(RECIPE).encode()], _JSON_TOKENS), read=_read_recipe
    ),
    "records": Target(
        inputs=mutate(
            [
                b'{"reference": "x", "images": 8, "max_error": 1e-6, "mean_error": 0.5}',
                b'{"images": 8, "batch_size": 4, "max_error": 1e-6}',
            ],
            _JSON_TOKENS,
        ),
        read=_read_records,
    ),
    "origin": Target(
        inputs=mutate([_OPTIONS.to_json().encode()], _JSON_TOKENS),
        read=_read_origin,
    ),
    "layer specs": Target(
        inputs=ANYTHING, read=lambda text, _: (parse_layer_specs(text), parse_layer_spec(text))
    ),
    "backbones": Target(
        inputs=ANYTHING
        | ANYTHING.map("mobilenet({})".format)
        | st.sampled_from(["vgg16(" + "(" * 5000, "vgg16(a=" + "-" * 5000 + "1)", "x" * 5000]),
        read=lambda text, _: parse_backbone(text),
    ),
    "sizes": Target(
        inputs=ANYTHING | st.from_regex(r"\d{1,30}(x\d{0,30})?"),
        read=lambda text, _: parse_size(text),
    ),
    "memory": Target(
        inputs=ANYTHING | st.from_regex(r"[\d.]{1,400}[KMGT]?i?B?") | st.just("4GB"),
        read=lambda text, _: parse_bytes(text),
    ),
    "--set": Target(
        inputs=st.lists(ANYTHING | st.sampled_from(_SETTINGS) | ANYTHING.map("C={}".format)),
        read=_parse_set,
    ),
    "names": Target(inputs=ANYTHING, read=lambda text, _: parse_names(text)),
    "locations": Target(
        inputs=ANYTHING | st.sampled_from(["/dev/zero", "x" * 5000, "\0", "a\0.zip"]),
        read=_open_location,
    ),
    "file keys": Target(
        inputs=ANYTHING | ANYTHING.map("/a!{}".format) | st.just("HERE/there.jpg"), read=_find_file
    ),
    "--split": Target(
        inputs=ANYTHING | st.from_regex(r"(test|val)=[\d.e-]{1,8}(,(test|val)=[\d.e-]{1,8})?"),
        read=_split,
    ),
    "--labels": Target(
        inputs=ANYTHING
        | ANYTHING.map("filename:{}".format)
        | ANYTHING.map("csv:{}".format)
        | st.sampled_from(
            [
                "folder",
                "filename:(a)|(",
                "filename:a",
                "filename:" + "(" * 5000,
                "filename:a{9999999999}",
            ]
        ),
        read=_label,
    ),
}
