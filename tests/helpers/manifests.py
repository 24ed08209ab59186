"""Manifests of images that lie somewhere, without the source that reads them."""

from __future__ import annotations

from permafrost.stages.datasets.labels import list_dataset
from permafrost.stages.datasets.manifest import Manifest


def build_manifest(
    location: str, *, labels: str | None = None, split_names: str | None = None
) -> Manifest:
    return list_dataset(location, labels=labels, split_names=split_names).manifest
