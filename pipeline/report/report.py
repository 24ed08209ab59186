"""``report``: what folders of sweeps, fits, runs, advice and audits hold, as one page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.disk.publish import make_folder, published
from permafrost.cache.errors import CacheError
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import Predictions, name_outputs, read_predictions
from permafrost.pipeline.looking.photos import find_photos
from permafrost.pipeline.models.learning import measure_learning
from permafrost.pipeline.models.reopened import ReopenedFit, predict_unseen, reopen_fit
from permafrost.pipeline.models.unseen import TEST, UnseenRows
from permafrost.pipeline.options import DEFAULT_MEMORY_BYTES, declare
from permafrost.pipeline.parsers import parse_bytes
from permafrost.pipeline.report.board import compare_chapters, tell_board, tell_verdict
from permafrost.pipeline.report.chapter import Chapter, read_chapter
from permafrost.pipeline.report.cost import tell_cost
from permafrost.pipeline.report.depth import tell_depth
from permafrost.pipeline.report.feature_map import MAPS, PCA, check_map, tell_map
from permafrost.pipeline.report.images import tell_audit, tell_images
from permafrost.pipeline.report.judged import tell_classes, tell_reliability, tell_values
from permafrost.pipeline.report.parts import Section, Table
from permafrost.pipeline.report.pictures import tell_mistakes
from permafrost.pipeline.report.training import tell_learning, tell_training
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.units import describe_bytes
from permafrost.stages.errors import StageError, UnknownNameError
from permafrost.stages.matrices.matrix import Rows

_TEMPLATES = Path(__file__).parent
_PAGE, _STYLE, _SCRIPT = "page.html", "page.css", "page.js"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What ``report`` is asked for.

    Attributes
    ----------
    folders : tuple of Path
        What ``sweep``, ``fit``, ``run``, ``advise`` or ``audit`` wrote; a chapter each.
    map : str
        ``pca``, ``umap`` or ``none``.
    memory_bytes : int
        Budget for features in memory.
    out : Path
    """

    folders: tuple[Path, ...]
    map: str = declare(PCA, choices=MAPS, help="how features are laid out on a plane")
    memory_bytes: int = declare(
        DEFAULT_MEMORY_BYTES,
        flag="--memory",
        type=parse_bytes,
        metavar="4GB",
        help="what features may take",
    )
    out: Path = field(default=Path("report.html"))

    def __post_init__(self) -> None:
        if self.map not in MAPS:
            raise UnknownNameError("map", self.map, MAPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A chapter of the page; `missing` says why some of it is left out."""

    chapter: Chapter
    sections: Sequence[Section]
    missing: str = ""


def write_report(options: ReportOptions) -> dict[str, Any]:
    """Write the page.

    Returns
    -------
    dict
        The file, its bytes, and the finding of each section by its name, for each chapter.

    Raises
    ------
    PipelineError, StageError
        A folder holds nothing to report, or a package of an extra is missing.
    """
    if options.out.is_dir():
        raise PipelineError(f"--out {str(options.out)!r} is a folder; name a file in it")
    check_map(options.map)
    chapters = [read_chapter(folder) for folder in options.folders]
    told = [_tell(chapter, options) for chapter in chapters]
    fitted = [chapter for chapter in chapters if chapter.metrics]
    page = _render(told, compare_chapters(fitted) if len(fitted) > 1 else None)
    make_folder(options.out.absolute().parent)
    with published(options.out) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return {
        "report": str(options.out),
        "bytes": options.out.stat().st_size,
        "chapters": [
            {
                "folder": str(one.chapter.folder),
                "missing": one.missing or None,
                "sections": {section.name: section.finding for section in one.sections},
            }
            for one in told
        ],
    }


def describe_report(figures: Mapping[str, Any]) -> str:
    """Say what `write_report` wrote, as a person wants it."""
    lines = [f"{figures['report']}: {describe_bytes(figures['bytes'])}"]
    for one in figures["chapters"]:
        lines.append(f"  {one['folder']}: {next(iter(one['sections'].values()))}")
        if one["missing"]:
            lines.append(f"  without what takes its features: {one['missing']}")
    return "\n".join(lines)


def _tell(chapter: Chapter, options: ReportOptions) -> Told:
    """Tell a chapter, with what takes its features if they are there."""
    if not chapter.metrics:
        return Told(chapter=chapter, sections=list(filter(None, [tell_audit(chapter)])))
    try:
        with reopen_fit(chapter.model, memory_bytes=options.memory_bytes) as fit:
            return Told(chapter=chapter, sections=list(_list_sections(chapter, fit, options)))
    except (CacheError, PipelineError, StageError) as error:
        missing = str(error)
    sections = list(_list_sections(chapter, None, options))
    return Told(chapter=chapter, sections=sections, missing=missing)


def _list_sections(
    chapter: Chapter, fit: ReopenedFit | None, options: ReportOptions
) -> Iterator[Section]:
    """Yield the sections in the order of the page; without `fit`, those that take no features."""
    files = fit.bench.files if fit else None
    photos = files and find_photos(files)
    found, measured = _predict(chapter, fit)
    learning = fit and measure_learning(fit, n_folds=chapter.n_folds)
    sections = (
        tell_verdict(chapter),
        tell_board(chapter),
        files and tell_depth(chapter, files),
        tell_training(chapter),
        measured and tell_classes(chapter, measured),
        measured and tell_values(chapter, measured),
        found and photos and tell_mistakes(chapter, found, photos),
        measured and tell_reliability(chapter, measured),
        learning and tell_learning(chapter, learning),
        fit and photos and tell_map(chapter, fit, found=found, photos=photos, kind=options.map),
        files and photos and tell_images(chapter, files, photos),
        tell_audit(chapter),
        tell_cost(chapter, files),
    )
    yield from (section for section in sections if isinstance(section, Section))


def _predict(
    chapter: Chapter, fit: ReopenedFit | None
) -> tuple[Predictions | None, Predictions | None]:
    """Return what is said of all labelled rows, and of those that the score is of."""
    unseen = predict_unseen(fit, n_folds=chapter.n_folds) if fit else None
    if fit is None or unseen is None:
        kept = read_predictions(chapter.model, classes=chapter.metrics.get("classes", ()))
        return kept, kept
    tested = np.flatnonzero(unseen.folds == TEST)
    found = _name(unseen, np.arange(len(unseen.rows)), chapter, fit.bench.files)
    return found, _name(unseen, tested, chapter, fit.bench.files) if len(tested) else found


def _name(found: UnseenRows, places: Rows, chapter: Chapter, files: FeatureFiles) -> Predictions:
    """Say in words what is predicted of some of the rows."""
    rows, outputs = found.rows[places], found.outputs[places]
    labels = files.column(chapter.target)
    return Predictions(
        paths=[files.paths[row] for row in rows],
        labels=[labels[row] for row in rows],
        predicted=list(map(str, name_outputs(outputs, found.classes, chapter.task))),
        classes=found.classes,
        outputs=outputs if len(found.classes) else outputs[:, :0],
    )


def _render(told: Sequence[Told], best: Table | None) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / _SCRIPT).read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return templates.get_template(_PAGE).render(
        told=told,
        best=best,
        style=(_TEMPLATES / _STYLE).read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(digest).decode("ascii"),
        write_data=_write_data,
        name_kind=lambda part: type(part).__name__,
    )


def _write_data(value: Mapping[str, Any]) -> str:
    """Write JSON that may stand in a page: nothing in it ends the element it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
