"""``report``: what folders of sweeps, fits, runs and advice hold, as one page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from permafrost.cache.disk.publish import make_folder, published
from permafrost.cache.errors import CacheError
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.models.learning import measure_learning
from permafrost.pipeline.models.reopened import ReopenedFit, predict_unseen, reopen_fit
from permafrost.pipeline.options import DEFAULT_MEMORY_BYTES, declare
from permafrost.pipeline.parsers import parse_bytes
from permafrost.pipeline.report.board import compare_chapters, tell_board, tell_verdict
from permafrost.pipeline.report.chapter import (
    Chapter,
    Predictions,
    join_predictions,
    read_chapter,
    read_predictions,
)
from permafrost.pipeline.report.cost import tell_cost
from permafrost.pipeline.report.depth import tell_depth
from permafrost.pipeline.report.feature_map import MAPS, PCA, MapOptions, check_map, tell_map
from permafrost.pipeline.report.images import tell_images
from permafrost.pipeline.report.judged import tell_classes, tell_reliability, tell_values
from permafrost.pipeline.report.parts import Section, Table
from permafrost.pipeline.report.pictures import find_pictures, tell_mistakes
from permafrost.pipeline.report.training import tell_learning, tell_training
from permafrost.stages.errors import StageError, UnknownNameError

_TEMPLATES = Path(__file__).parent
_PAGE, _STYLE, _SCRIPT = "page.html", "page.css", "page.js"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What ``report`` is asked for.

    Attributes
    ----------
    folders : tuple of Path
        What ``sweep``, ``fit``, ``run`` or ``advise`` wrote; a chapter each.
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
    page = _render(told, compare_chapters(chapters) if len(chapters) > 1 else None)
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
    lines = [f"{figures['report']}: {figures['bytes'] / 1e6:.1f} MB"]
    for one in figures["chapters"]:
        lines.append(f"  {one['folder']}: {one['sections']['verdict']}")
        if one["missing"]:
            lines.append(f"  without what takes its features: {one['missing']}")
    return "\n".join(lines)


def _tell(chapter: Chapter, options: ReportOptions) -> Told:
    """Tell a chapter, with what lies in its features if they are there."""
    try:
        with reopen_fit(chapter.model, memory_bytes=options.memory_bytes) as fit:
            return Told(chapter=chapter, sections=list(_list_sections(chapter, fit, options)))
    except (CacheError, PipelineError, StageError) as error:
        missing = str(error)
    sections = [*_tell_board(chapter), *_tell_predictions(chapter, read_predictions(chapter))]
    return Told(chapter=chapter, sections=[*sections, tell_cost(chapter, None)], missing=missing)


def _tell_board(chapter: Chapter) -> Iterator[Section]:
    yield tell_verdict(chapter)
    yield from filter(None, (tell_board(chapter), tell_training(chapter)))


def _tell_predictions(chapter: Chapter, found: Predictions | None) -> Iterator[Section]:
    if found is not None:
        for tell in (tell_classes, tell_values, tell_reliability):
            section = tell(chapter, found.measured)
            if section is not None:
                yield section


def _list_sections(chapter: Chapter, fit: ReopenedFit, options: ReportOptions) -> Iterator[Section]:
    """Yield the sections in the order of the page."""
    files, pictures = fit.bench.files, find_pictures(fit.bench.files)
    found = _predict(chapter, fit)
    learning = measure_learning(fit, n_folds=chapter.n_folds)
    board = {section.name: section for section in _tell_board(chapter)}
    judged = {section.name: section for section in _tell_predictions(chapter, found)}
    wanted = [
        board.pop("verdict"),
        board.pop("leaderboard", None),
        tell_depth(chapter, files),
        *board.values(),
        *(judged.get(name) for name in ("classes", "tags", "values")),
        found and tell_mistakes(chapter, found, pictures),
        judged.get("reliability"),
        learning and tell_learning(chapter, learning),
        tell_map(
            chapter,
            files,
            found=found,
            pictures=pictures,
            how=MapOptions(kind=options.map, memory_bytes=options.memory_bytes),
        ),
        tell_images(chapter, files, pictures),
        tell_cost(chapter, files),
    ]
    yield from (section for section in wanted if section)


def _predict(chapter: Chapter, fit: ReopenedFit) -> Predictions | None:
    unseen = predict_unseen(fit, n_folds=chapter.n_folds)
    if unseen is None:
        return read_predictions(chapter)
    files = fit.bench.files
    return join_predictions(
        unseen, task=chapter.task, paths=files.paths, labels=files.column(chapter.target)
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
    )


def _write_data(value: Mapping[str, Any]) -> str:
    """Write JSON that may stand in a page: nothing in it ends the element it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
