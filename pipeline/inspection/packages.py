"""Which packages are there, which are broken, and what each extra would bring."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from permafrost.about import (
    NAME,
    Requirement,
    find_version,
    list_requirements,
    sort_requirements,
)
from permafrost.pipeline.inspection.children import ask_child

# What a package is imported as, where that is not its name.
_MODULES = {
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "vl-convert-python": "vl_convert",
}
# These are tried by running a network.
_FRAMEWORKS = ("tensorflow", "keras")
# What an extra is for; those for who works on this project are left out.
EXTRAS = {
    "dataframe": "features as pandas tables",
    "gpu": "NVIDIA GPUs for TensorFlow",
    "http": "images on web servers",
    "hub": "KerasHub's presets as backbones",
    "jax": "--engine keras on JAX",
    "litert": "models for LiteRT",
    "mlflow": "--track, and the mlflow server",
    "onnx": "models for ONNX",
    "openvino": "--engine openvino",
    "parquet": "Parquet and Arrow files, of images and of features",
    "s3": "images in S3",
    "torch": "--engine keras on PyTorch",
    "umap": "report --map umap",
    "completion": "completion in the shell",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package that is needed.

    Attributes
    ----------
    name : str
    version : str or None
        None where it is missing.
    problem : str or None
        What is wrong with it.
    """

    name: str
    version: str | None
    problem: str | None


def list_packages() -> list[Package]:
    """Return all packages that are needed in any case; those that are there are imported."""
    needed = list_requirements()[""]
    there = [one for one in needed if find_version(one.name) and one.name not in _FRAMEWORKS]
    broken = _find_broken([_MODULES.get(one.name, one.name) for one in there])
    return [
        Package(
            name=one.name,
            version=find_version(one.name),
            problem=explain_lack(one) or broken.get(_MODULES.get(one.name, one.name)),
        )
        for one in needed
    ]


def list_extras() -> dict[str, list[str]]:
    """Return what is missing for each extra; nothing where it is all there."""
    groups = list_requirements()
    return {
        extra: [lack for one in groups[extra] for lack in _list_lacks(one)]
        for extra in EXTRAS
        if extra in groups
    }


def explain_lack(requirement: Requirement) -> str | None:
    """Say why a requirement is not met; None where it is."""
    version = find_version(requirement.name)
    if version is None:
        return "is not installed"
    if _as_numbers(version) < _as_numbers(requirement.at_least):
        return f"{version} is older than {requirement.at_least}"
    return None


def _list_lacks(requirement: Requirement) -> Iterator[str]:
    lack = explain_lack(requirement)
    if lack:
        yield requirement.name if lack == "is not installed" else f"{requirement.name} {lack}"
        return
    groups = sort_requirements(requirement.name)
    for extra in requirement.extras:
        yield from (one.name for one in groups.get(extra, []) if not find_version(one.name))


def _as_numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _find_broken(modules: Sequence[str]) -> dict[str, str]:
    """Return what is wrong with modules that cannot be imported."""
    broken: dict[str, str] = {}
    left = list(modules)
    while left:
        answer = ask_child("import_trial", *left)
        for told in answer.objects:
            left.remove(told["module"])
            if told["problem"]:
                broken[told["module"]] = told["problem"]
        if left:  # The child ended while it imported the next one.
            broken[left.pop(0)] = f"importing it fails: {answer.reason}"
    return broken


def name_pip(extra: str) -> str:
    """Return the command that gets an extra."""
    return f'pip install "{NAME}[{extra}]"'
