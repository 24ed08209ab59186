"""What the images themselves are like: unreadable ones, copies, the sizes of classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from permafrost.pipeline.extraction.summary import failures_path
from permafrost.pipeline.report.chapter import Chapter, read_rows
from permafrost.pipeline.report.charts import make_chart, paint, plot_bars
from permafrost.pipeline.report.parts import Chart, Gallery, Section, Table, count
from permafrost.pipeline.report.pictures import Pictures
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.datasets.targets import MULTILABEL, REGRESSION, SEPARATOR

_CHARTED = 25
_LISTED = 50
_PAIRS = 6
_SPLITS = ("train", "val", "test")


def tell_images(chapter: Chapter, files: FeatureFiles, pictures: Pictures) -> Section:
    """Say what could not be read, what is there twice, and how the classes are shared out."""
    failures = {
        row["path"]: row["reason"]
        for file in files.opened
        for row in read_rows(failures_path(file.path))
    }
    copies = _find_copies(files)
    n_copies = sum(len(rows) - 1 for rows in copies)
    n_crossing = sum(len({str(files.splits[row]) for row in rows}) > 1 for rows in copies)
    near = chapter.metrics.get("near_duplicates", 0)
    told = {0: "no test image is nearly a training image", None: ""}.get(
        near,
        f"{count(near or 0, 'test image')} {'is' if near == 1 else 'are'} nearly a training image",
    )
    finding = (
        f"{count(len(files), 'image')} in use, {len(failures) or 'none'} unreadable,"
        f" {n_copies or 'no'} exact {'copy' if n_copies == 1 else 'copies'}"
        f"{f', {n_crossing} of them across splits' if n_crossing else ''}"
        f"{f'; {told}' if told and chapter.test_score is not None else ''}."
    )
    parts: list[Chart | Gallery | Table] = []
    if chapter.task != REGRESSION:
        parts.append(_plot_sizes(chapter, files))
    parts += _show_pairs(chapter, pictures)
    if failures:
        rows = list(failures.items())[:_LISTED]
        parts.append(
            Table(
                title=f"Unreadable: {len(failures)}",
                header=("Path", "Reason"),
                rows=rows,
                texts=frozenset({0, 1}),
            )
        )
    if copies:
        parts.append(_list_copies(files, copies))
    return Section(name="images", title="The images", finding=finding, parts=parts)


def _find_copies(files: FeatureFiles) -> list[list[int]]:
    """Return the rows of images that are there more than once, equal in every byte."""
    rows: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(files.digests):
        rows[digest.tobytes()].append(row)
    return [several for several in rows.values() if len(several) > 1]


def _list_copies(files: FeatureFiles, copies: Sequence[Sequence[int]]) -> Table:
    rows = [
        (
            files.paths[first],
            ", ".join(files.paths[row] for row in others[:3]),
            " and ".join(sorted({str(files.splits[row]) or "train" for row in (first, *others)})),
        )
        for first, *others in copies[:_LISTED]
    ]
    return Table(
        title="Equal in every byte",
        header=("Path", "The same as", "Split"),
        rows=rows,
        texts=frozenset({0, 1, 2}),
        is_folded=len(rows) > 5,
    )


def _show_pairs(chapter: Chapter, pictures: Pictures) -> list[Gallery]:
    shown = []
    for test, train, cosine in chapter.metrics.get("near_duplicate_pairs", ())[:_PAIRS]:
        shown.append(pictures.show(test, [f"test, cosine {cosine:.4f} to the next"]))
        shown.append(pictures.show(train, ["training"]))
    if not shown:
        return []
    note = "Two by two. They flatter the test score: name what belongs together in a column group."
    return [Gallery(title="Nearly the same, across splits", pictures=shown, note=note)]


def _plot_sizes(chapter: Chapter, files: FeatureFiles) -> Chart:
    texts = files.column(chapter.target)
    sizes: Counter[tuple[str, str]] = Counter()
    totals: Counter[str] = Counter()
    for text, split in zip(texts, files.splits.tolist(), strict=True):
        names = text.split(SEPARATOR) if chapter.task == MULTILABEL else [text]
        for name in filter(None, map(str.strip, names)):
            sizes[name, split or "train"] += 1
            totals[name] += 1
    named = {split for _, split in sizes}
    splits = [split for split in _SPLITS if split in named]
    classes = [name for name, _ in totals.most_common(_CHARTED)]
    rows = [
        {
            "y": name,
            "x": sizes[name, split],
            "series": split,
            "said": f"{name}, {split}: {count(sizes[name, split], 'image')}",
        }
        for name in classes
        for split in splits
        if sizes[name, split]
    ]
    colours = paint(splits)
    svg = plot_bars(rows, x="Images", colours=colours)
    note = f"The {len(classes)} largest of {len(totals)}." if len(totals) > len(classes) else ""
    return make_chart("Images of each class", svg, colours, note)
