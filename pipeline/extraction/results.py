"""What a run writes: ``features.h5``, and the list of images that have no features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from permafrost.cache.disk.publish import remove_durably
from permafrost.cache.shards.locations import RowLocations
from permafrost.cache.store.folders import mark_used
from permafrost.cache.store.index import Index
from permafrost.cache.views.writer import ViewImages, ViewLayer, digest_content, write_view
from permafrost.pipeline.computing.tally import Tally, list_failures
from permafrost.pipeline.errors import UnavailableError
from permafrost.pipeline.extraction.summary import Written, failures_path
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.outputs import write_rows
from permafrost.pipeline.planning.missing import LayerPlan
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.pipeline.planning.remembered import recall_view, remember_view
from permafrost.stages.datasets.table import read_table
from permafrost.stages.errors import InputError
from permafrost.stages.sources.remote import is_url


def write_results(
    options: ExtractOptions, prepared: Preparation, tally: Tally, index: Index, *, out: Path
) -> Written:
    """Write the view and the list of failures, unless they are as they were."""
    failed = list_failures(prepared, tally)
    manifest = prepared.dataset.manifest
    kept = manifest
    if failed:
        lost = {path for path, _ in failed}
        kept = manifest.select(row for row, path in enumerate(manifest.paths) if path not in lost)
    if not kept.paths:
        raise InputError(
            f"none of the {len(manifest)} images of {manifest.root!r} can be read;"
            f" the first: {failed[0][0]!r}: {failed[0][1]}"
        )
    is_relative = not (is_url(kept.root) or Path(kept.root).is_absolute())
    images = ViewImages(
        root=kept.root,
        base=Path.cwd() if is_relative else None,
        paths=kept.paths,
        labels=kept.labels,
        splits=kept.splits,
        digests=kept.digests.array,
        columns=kept.extra,
    )
    layers = [
        _locate(layer, kept.digests, layer.locations if kept is manifest else None)
        for layer in prepared.plan.layers
    ]
    origin = options.features.to_json()
    known = recall_view(index, out)
    mark = write_view(
        out, images, layers, origin=origin, materialize=options.run.materialize, known=known
    )
    if mark != known:
        remember_view(index, out, mark)
    write_failures(failures_path(out), failed)
    return Written(failed=failed, digest=digest_content(images, layers))


def _locate(
    layer: LayerPlan, digests: Sequence[bytes], locations: RowLocations | None
) -> ViewLayer:
    folder = layer.features.folder
    mark_used(folder)
    locations = locations or layer.features.locate(digests)
    if locations.missing.any() or not all((folder / name).exists() for name in locations.shards):
        # The set is not as it was when planned: this run added rows, or shards were merged.
        locations = locate_again(layer, digests)
    return ViewLayer(
        spec=str(layer.spec),
        recipe=layer.recipe,
        folder=folder,
        row=layer.row,
        locations=locations,
    )


def locate_again(layer: LayerPlan, digests: Sequence[bytes], *, n_failed: int = 0) -> RowLocations:
    """Find rows in a feature set that changed since it was planned.

    Raises
    ------
    UnavailableError
        More of them are missing than the `n_failed` that could not be computed.
    """
    layer.features.refresh()
    layer.features.settle()
    locations = layer.features.locate(digests)
    if locations.missing.sum() > n_failed:
        raise UnavailableError(f"rows of {layer.spec} vanished from the cache meanwhile; run again")
    return locations


def write_failures(file: Path, failed: Sequence[tuple[str, str]]) -> None:
    """Write the list of failures; remove one where nothing failed."""
    if failed:
        write_rows(file, ("path", "reason"), failed)
    else:
        remove_durably(file)


def read_failures(out: Path) -> dict[str, str]:
    """Return the paths of the failures of a view, with the reason of each."""
    file = failures_path(out)
    if not file.is_file():
        return {}
    table = read_table(file)
    return dict(zip(table.require("path"), table.extra.get("reason", []), strict=False))
