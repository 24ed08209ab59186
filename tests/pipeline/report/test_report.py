"""What a page says of a folder, and that it is what the folder holds."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from permafrost.pipeline.models.reopened import predict_unseen, reopen_fit
from tests.helpers import ROOT
from tests.helpers.reports import (
    DIGITS,
    LABELS,
    SPLITS,
    N,
    call,
    read_metrics,
    sweep,
    write_digits,
)
from tests.helpers.users import acting_as, needs_root, shared_folder

_SECTION = re.compile(r'<section aria-labelledby="c1-(\w+)[^"]*">(.*?)</section>', re.DOTALL)
_FINDING = re.compile(r'<p class="finding">(.*?)</p>', re.DOTALL)


def read_sections(page: Path) -> dict[str, str]:
    """Return the page's text of each section by its name, in their order."""
    return dict(_SECTION.findall(page.read_text(encoding="utf-8")))


def read_finding(section: str) -> str:
    found = _FINDING.search(section)
    assert found
    return html.unescape(found[1])


def read_table(section: str, title: str) -> list[list[str]]:
    """Return the cells of a table's body."""
    table = re.search(
        rf'<caption class="unseen">{re.escape(title)}</caption>(.*?)</table>', section, re.DOTALL
    )
    assert table
    body = table[1].partition("<tbody>")[2]
    return [
        [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    ]


def report(command, *folders: Path, out: Path, options: tuple[object, ...] = ()):
    return command("report", *folders, "--out", out, "--json", *options)


def test_sections_come_in_the_order_in_which_one_asks(page):
    assert list(read_sections(page)) == [
        *("verdict", "leaderboard", "depth", "classes", "pictures", "reliability", "learning"),
        *("map", "images", "cost"),
    ]


def test_the_verdict_is_that_of_the_test_split(swept, page):
    metrics = read_metrics(swept / "best")
    finding = read_finding(read_sections(page)["verdict"])
    assert f"accuracy {100 * metrics['accuracy']:.1f} %" in finding
    assert f"on {SPLITS.count('test')} test rows that were never used for choosing" in finding


def test_the_leaderboard_is_the_one_in_the_folder(swept, page):
    with (swept / "leaderboard.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    rows = read_table(read_sections(page)["leaderboard"], "Leaderboard")
    assert [row[1:3] for row in rows] == [[row["layer"], row["head"]] for row in written]
    assert [row[3] for row in rows] == [
        f"{100 * float(row['accuracy_mean']):.1f} %" for row in written
    ]
    assert [row[5].startswith("real") for row in rows] == [
        row["tied_with_first"] == "no" for row in written
    ]


def test_layers_lie_in_the_order_of_depth(page):
    rows = read_table(read_sections(page)["depth"], "vgg16, from the input on")
    assert [row[0] for row in rows] == ["b_first", "c_middle", "a_last"]


def test_the_matrix_counts_the_rows_of_the_test_split(swept, page):
    counts = read_metrics(swept / "best")["confusion"]["counts"]
    rows = read_table(read_sections(page)["classes"], "Confusion matrix")
    assert [[int(cell.replace("·", "0")) for cell in row[1:]] for row in rows] == counts


def test_the_mistakes_shown_are_those_that_it_is_surest_of(swept, page):
    with reopen_fit(swept / "best") as fit:
        found = predict_unseen(fit, n_folds=3)
    said = found.classes[found.outputs.argmax(axis=1)]
    wrong = np.flatnonzero(said != np.array(LABELS)[found.rows])
    surest = wrong[np.argsort(-found.outputs[wrong].max(axis=1), kind="stable")]
    gallery = read_sections(page)["pictures"].partition("Least certain")[0]
    shown = re.findall(r"<small>(\d+)\.png</small>", gallery)
    assert [int(number) for number in shown] == found.rows[surest[:12]].tolist()
    assert gallery.count('src="data:image/webp;base64,') == len(shown)


def test_every_image_is_on_the_map_once(page):
    text = re.search(r'id="c1-map-data">(.*?)</script>', page.read_text(encoding="utf-8"))
    data = json.loads(text[1])
    assert data["path"] == [f"{row:04d}.png" for row in range(N)]
    assert [data["classes"][number] for number in data["label"]] == LABELS
    # 16 tiles on a side of a sheet.
    assert len(data["sheets"]) == -(-N // 256)


def test_the_same_folder_gives_the_same_page(command, swept, page, tmp_path):
    report(command, swept, out=tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_figures_name_what_was_written(command, swept, tmp_path):
    out = tmp_path / "deep" / "page.html"
    figures = report(command, swept, swept / "best", out=out, options=("--map", "none")).figures
    assert figures["bytes"] == out.stat().st_size
    assert [one["folder"] for one in figures["chapters"]] == [str(swept), str(swept / "best")]
    assert "map" not in figures["chapters"][0]["sections"]
    assert "leaderboard" not in figures["chapters"][1]["sections"]
    rows = read_table(out.read_text(encoding="utf-8"), "The best of each")
    assert rows[0][1:] == rows[1][1:]


def test_without_its_features_a_folder_still_tells_what_it_holds(command, swept, tmp_path):
    shutil.copytree(swept, tmp_path / "moved")
    out = tmp_path / "page.html"
    (chapter,) = report(command, tmp_path / "moved", out=out).figures["chapters"]
    assert "features.h5" in chapter["missing"]
    kept = {"verdict", "leaderboard", "classes", "reliability", "cost"}
    assert set(chapter["sections"]) == kept
    assert read_table(read_sections(out)["classes"], "Confusion matrix")


@needs_root
def test_a_folder_that_cannot_be_written_is_reported_as_any_other(swept, page):
    with shared_folder(group=0, mode=0o755) as folder:
        shutil.copy(swept.parent / "features.h5", folder)
        shutil.copytree(swept.parent / "digits", folder / "digits")
        shutil.copytree(swept, folder / "runs")
        kept = [folder / "runs" / "best" / name for name in ("unseen.npz", "learning.json")]
        for file in kept:
            file.unlink()
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        out = folder / "out" / "page.html"
        with acting_as(12345):
            if not os.access(ROOT / "pipeline/report/page.html", os.R_OK, effective_ids=True):
                pytest.skip("other users may not read this checkout")
            call("report", folder / "runs", "--out", out)
        found, expected = read_sections(out), read_sections(page)
        assert [found[name] for name in ("pictures", "learning", "map")] == [
            expected[name] for name in ("pictures", "learning", "map")
        ]
        assert not any(file.exists() for file in kept)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None])
def test_a_folder_of_something_else_is_one_line(refused, tmp_path, make):
    make(tmp_path / "else")
    line = refused("report", tmp_path / "else", "--out", tmp_path / "page.html")
    assert (
        "holds nothing to report" in line
        and "name what sweep, fit, run, advise or audit wrote" in line
    )
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("best/metrics.json", '{"task": "classification"}'),
        ("best/metrics.json", '{"task": ["x"]}'),
        ("best/model.json", "{}"),
        ("leaderboard.csv", "rank,layer\nfirst,a"),
    ],
)
def test_a_damaged_folder_is_one_line(refused, swept, tmp_path, name, content):
    shutil.copytree(swept, tmp_path / "runs")
    (tmp_path / "runs" / name).write_text(content)
    line = refused("report", tmp_path / "runs", "--out", tmp_path / "page.html")
    assert "damaged" in line and "run again what wrote them" in line


def test_names_of_classes_are_text_and_never_markup(command, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    labels = [evil if label == "digit 0" else "'quoted' & \"so\"" for label in LABELS]
    runs = sweep(write_digits(tmp_path, labels=labels), tmp_path / "runs", heads="nearest_mean")
    out = tmp_path / "page.html"
    assert report(command, runs, out=out).status == 0
    text = out.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert evil in html.unescape(read_sections(out)["classes"])


def test_of_many_classes_the_matrix_shows_those_that_are_confused(command, tmp_path):
    labels = [f"{label} {row % 3}" for row, label in enumerate(LABELS)]
    splits = ["test" if row % 2 else "train" for row in range(N)]
    file = write_digits(tmp_path, labels=labels, splits=splits)
    runs = sweep(file, tmp_path / "runs", "--layers", "a_last:avg", heads="nearest_mean")
    report(command, runs, out=tmp_path / "page.html")
    section = read_sections(tmp_path / "page.html")["classes"]
    confusion = read_metrics(runs / "best")["confusion"]
    counts = np.array(confusion["counts"])
    np.fill_diagonal(counts, 0)
    true, taken = np.unravel_index(counts.argmax(), counts.shape)
    assert len(read_table(section, "Confusion matrix")) == 25
    first = read_table(section, "Confused most")[0]
    assert first[2] == str(counts[true, taken])
    assert len(read_table(section, "Each class")) == len(confusion["classes"]) == 30


def test_of_values_truth_and_prediction_are_drawn(command, tmp_path):
    columns = {"ink": [f"{total:.2f}" for total in DIGITS.data[:N].sum(axis=1)]}
    file = write_digits(tmp_path, columns=columns)
    task = ("--task", "regression", "--target", "ink")
    runs = sweep(file, tmp_path / "runs", *task, heads="ridge")
    report(command, runs, out=tmp_path / "page.html")
    sections = read_sections(tmp_path / "page.html")
    assert list(sections) == [
        *("verdict", "leaderboard", "depth", "values", "pictures", "learning"),
        *("map", "images", "cost"),
    ]
    marks = re.findall(r'aria-label="(\d+)\.png: [\d.,]+ predicted', sections["values"])
    tested = [row for row in range(N) if SPLITS[row] == "test"]
    assert [int(mark) for mark in marks] == 2 * tested


def test_of_tags_each_has_its_figures(command, tmp_path):
    tags = ["odd;small" if d < 5 and d % 2 else "odd" if d % 2 else "small" if d < 5 else ";"
            for d in DIGITS.target[:N]]  # fmt: skip
    file = write_digits(tmp_path, labels=tags)
    runs = sweep(file, tmp_path / "runs", "--task", "multilabel", heads="logreg")
    report(command, runs, out=tmp_path / "page.html")
    sections = read_sections(tmp_path / "page.html")
    figures = {one["class"]: one for one in read_metrics(runs / "best")["per_class"]}
    rows = read_table(sections["tags"], "Each tag")
    assert [row[0] for row in rows] == ["odd", "small"]
    assert rows[0][1] == f"{figures['odd']['average_precision']:.3f}"
    assert "reliability" in sections and "pictures" not in sections


def test_without_a_test_split_the_folds_are_what_it_is_measured_on(command, tmp_path):
    runs = sweep(write_digits(tmp_path, splits=[""] * N), tmp_path / "runs", heads="logreg")
    report(command, runs, out=tmp_path / "page.html")
    sections = read_sections(tmp_path / "page.html")
    finding = read_finding(sections["verdict"])
    assert f"cross-validated in 3 folds of {N} rows, on which it was also chosen" in finding
    rows = read_table(sections["classes"], "Each class")
    assert sum(int(row[-1]) for row in rows) == N


def test_copies_and_unreadable_images_are_listed(command, tmp_path):
    numbers = list(range(N))
    numbers[7] = 3
    file = write_digits(tmp_path, numbers=numbers)
    failures = "path,reason\nbroken.png,not an image\n"
    file.with_name("features.h5.failures.csv").write_text(failures)
    runs = sweep(file, tmp_path / "runs", "--layers", "a_last:avg", heads="nearest_mean")
    report(command, runs, out=tmp_path / "page.html")
    section = read_sections(tmp_path / "page.html")["images"]
    assert (
        f"{N} images in use, 1 unreadable, 1 exact copy, 1 of them across splits"
        in read_finding(section)
    )
    assert read_table(section, "Unreadable: 1") == [["broken.png", "not an image"]]


def test_umap_without_its_package_is_one_line(refused, swept, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    line = refused("report", swept, "--map", "umap", "--out", tmp_path / "page.html")
    assert "permafrost[umap]" in line


def test_a_head_that_failed_stands_at_the_end(command, swept, tmp_path):
    file = swept.parent / "features.h5"
    options = ("--layers", "a_last:avg", "--set", "knn.neighbors=5,100000")
    runs = sweep(file, tmp_path / "runs", *options)
    report(command, runs, out=tmp_path / "page.html")
    rows = read_table(read_sections(tmp_path / "page.html")["leaderboard"], "Leaderboard")
    assert rows[-1][5].startswith("failed")


@pytest.mark.slow
def test_networks_are_drawn_over_epochs_and_seconds(tmp_path):
    file = write_digits(tmp_path)
    options = ("--layers", "a_last:avg", "--set", "mlp.epochs=3", "--set", "mlp.hidden=[8]")
    runs = sweep(file, tmp_path / "runs", *options, heads="mlp,nearest_mean")
    call("report", runs, "--out", tmp_path / "page.html")
    section = read_sections(tmp_path / "page.html")["training"]
    assert section.count("<svg ") == 2
    assert len(re.findall(r"epoch [123], [\d.]+ m?s", section)) == 2 * 3
    call("report", runs / "best", "--out", tmp_path / "page.html")
    if json.loads((runs / "best/metrics.json").read_text())["head"] == "mlp":
        assert "was trained for" in read_sections(tmp_path / "page.html")["training"]


def test_values_and_odd_names_are_read_back_from_the_tables(command, tmp_path):
    names = {"digit 1": "=1+1", "digit 2": "path", "digit 3": "-x", "digit 4": "p:y"}
    columns = {"ink": [f"{total:.2f}" for total in DIGITS.data[:N].sum(axis=1)]}
    labels = [names.get(label, label) for label in LABELS]
    file = write_digits(tmp_path, labels=labels, columns=columns)
    classes = sweep(file, tmp_path / "classes", heads="nearest_mean")
    task = ("--task", "regression", "--target", "ink")
    values = sweep(file, tmp_path / "values", *task, heads="ridge")
    for runs, section in ((classes, "classes"), (values, "values")):
        there, moved = tmp_path / "there.html", tmp_path / "moved.html"
        report(command, runs, out=there)
        shutil.copytree(runs, tmp_path / "far" / "away" / runs.name)
        report(command, tmp_path / "far" / "away" / runs.name, out=moved)
        assert read_sections(moved)[section] == read_sections(there)[section]
