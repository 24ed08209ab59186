"""What the images themselves are like: sizes of classes, copies, and what looks wrong in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain

from permafrost.pipeline.extraction.results import read_failures
from permafrost.pipeline.looking.photos import Photos, list_places
from permafrost.pipeline.report.chapter import Chapter
from permafrost.pipeline.report.charts import paint, plot_bars
from permafrost.pipeline.report.parts import Axis, Chart, Gallery, Part, Section, Table, show_share
from permafrost.pipeline.report.pictures import show_gallery
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.units import count
from permafrost.stages.datasets.split_names import SPLITS
from permafrost.stages.datasets.targets import MULTILABEL, REGRESSION, SEPARATOR

_CHARTED = 25
_LISTED = 50
_PAIRS = 6
_SUSPECTS = 12
# What an audit tells of, and what it is where the name does not say so.
_KINDS = {
    "unreadable": ("unreadable image", "could not be extracted"),
    "duplicate": ("duplicate", "the same bytes as another"),
    "label": ("doubtful label", "another class is more probable, or nearly so"),
    "near_duplicate": ("near-duplicate", "resized, recompressed or cropped a little"),
    "group": ("weak group", "a value of a column that heads do badly on"),
    "order": ("telling order", "neighbours in it share labels or errors"),
    "outlier": ("outlier", "unlike its nearest neighbours"),
    "odd_shape": ("oddly shaped image", ""),
}


def tell_images(chapter: Chapter, files: FeatureFiles, photos: Photos) -> Section:
    """Say what could not be read, what is there twice, and how the classes are shared out."""
    failures = dict(chain.from_iterable(read_failures(one.path).items() for one in files.opened))
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
    rows = list(failures.items())[:_LISTED]
    unread = Table(title=f"Unreadable: {len(failures)}", header=("Path", "Reason"), rows=rows)
    parts: list[Part] = [_show_pairs(chapter, photos), unread, _list_copies(files, copies)]
    if chapter.task != REGRESSION:
        parts.insert(0, _plot_sizes(chapter, files))
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
    header = ("Path", "The same as", "Split")
    return Table(title="Equal in every byte", header=header, rows=rows, is_folded=len(rows) > 5)


def _show_pairs(chapter: Chapter, photos: Photos) -> Gallery:
    pairs = chapter.metrics.get("near_duplicate_pairs", ())[:_PAIRS]
    shown = [
        one
        for test, train, cosine in pairs
        for one in ((test, [f"test, cosine {cosine:.4f} to the next"]), (train, ["training"]))
    ]
    note = "Two by two. They flatter the test score: name what belongs together in a column group."
    return show_gallery("Nearly the same, across splits", photos, shown, note=note)


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
    splits = [split for split in SPLITS if split in named]
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
    note = f"The {len(classes)} largest of {len(totals)}." if len(totals) > len(classes) else ""
    title = "Images of each class"
    return plot_bars(title, rows, x=Axis("Images"), colours=paint(splits), note=note)


def tell_audit(chapter: Chapter) -> Section | None:
    """Say what an audit found suspicious, with pictures of suspects and of copies."""
    found = chapter.audit
    if not found:
        return None
    kinds: dict[str, int] = found["kinds"]
    counts = ", ".join(count(n, _name_kind(kind)[0]) for kind, n in kinds.items())
    finding = (
        f"{count(found['issues'], 'suspicion')} about {count(found['images'], 'image')}: {counts}."
        if kinds
        else f"Nothing looks wrong among {count(found['images'], 'image')}."
    )
    photos = Photos(list_places(found["source"], chapter.folder), chapter.orient)
    table = Table(
        title="Suspicions by kind",
        header=("Kind", ">Suspicions", "What it is"),
        rows=[(_name_kind(kind)[0], f"{n:,}", _name_kind(kind)[1]) for kind, n in kinds.items()],
        note=". ".join(found["notes"]),
    )
    parts: list[Part] = [
        table,
        _show_suspects(chapter, photos),
        _show_copies(chapter, photos),
        _list_groups(chapter),
    ]
    title = "What looks wrong in the data"
    return Section(name="audit", title=title, finding=finding, parts=parts)


def _name_kind(kind: str) -> tuple[str, str]:
    """Return what people call a kind of suspicion, and what it is."""
    name, said = _KINDS.get(kind, (f"{kind} image", ""))
    return name, said or "compared with all other images"


def _show_suspects(chapter: Chapter, photos: Photos) -> Gallery:
    suspects = [one for one in chapter.issues if one["kind"] == "label"]
    shown = [
        (
            one["path"],
            [f"labelled {one['label']}", f"rather {one['suggested']}", f"score {one['score']}"],
        )
        for one in suspects[:_SUSPECTS]
    ]
    n_wrong = chapter.audit.get("wrong_labels")
    note = "" if n_wrong is None else f"Wrong labels in all, by estimate: {n_wrong:,}."
    return show_gallery("Labels to look at first", photos, shown, note=note)


def _show_copies(chapter: Chapter, photos: Photos) -> Gallery:
    copies = [one for one in chapter.issues if one["kind"] in {"duplicate", "near_duplicate"}]
    shown: list[tuple[str, list[str]]] = []
    for one in copies[:_PAIRS]:
        lines = [_name_kind(one["kind"])[0], *filter(None, one["detail"].split("; "))]
        shown += [(one["path"], lines), (one["other"], ["the other"])]
    note = "Two by two, the first those that contradict each other or lie across splits."
    return show_gallery("Copies", photos, shown, note=note)


def _list_groups(chapter: Chapter) -> Table:
    bad = [one for one in chapter.audit.get("groups", ()) if one["is_bad"]][:_LISTED]
    rows = [
        (
            f"{one['column']}={one['value']}",
            f"{one['n_rows']:,}",
            show_share(one["accuracy"]),
            " to ".join(map(show_share, one["interval"])),
            show_share(one["rest"]),
        )
        for one in bad
    ]
    header = ("Group", ">Rows", ">Accuracy", ">95 %", ">All others")
    return Table(title="Groups that do badly", header=header, rows=rows)
