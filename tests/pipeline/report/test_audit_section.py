"""What a page says of an audit is what the audit wrote."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.helpers.reports import LABELS, N, call, write_digits
from tests.pipeline.report.test_report import read_finding, read_sections, read_table

KINDS = "Suspicions by kind"


def read_issues(audit: Path, *kinds: str) -> list[dict[str, str]]:
    with (audit / "issues.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["kind"] in kinds]


def find_shown(section: str, title: str) -> list[str]:
    """Return the paths under the pictures of a gallery."""
    gallery = section.partition(f"<h4>{title}</h4>")[2].partition("</ul>")[0]
    return re.findall(r"<small>(.*?)</small></p></li>", gallery)


def test_the_counts_are_those_of_the_audit(audited, audited_page):
    told = json.loads((audited / "audit" / "audit.json").read_text())
    section = read_sections(audited_page)["audit"]
    finding = read_finding(section)
    assert f"{told['issues']} suspicions about {told['images']} images: " in finding
    assert [int(n) for n in re.findall(r"(\d+) ", finding)][2:] == list(told["kinds"].values())
    counts = [int(row[1]) for row in read_table(section, KINDS)]
    assert counts == list(told["kinds"].values()) and sum(counts) == told["issues"]


def test_suspects_and_copies_are_those_of_the_table(audited, audited_page):
    section, audit = read_sections(audited_page)["audit"], audited / "audit"
    suspects = [one["path"] for one in read_issues(audit, "label")]
    assert find_shown(section, "Labels to look at first") == suspects[:12]
    assert "two/wrong.903.png" in suspects and "rather zero" in section
    copies = read_issues(audit, "duplicate", "near_duplicate")[:6]
    pairs = [path for one in copies for path in (one["path"], one["other"])]
    assert find_shown(section, "Copies") == pairs
    assert section.count('src="data:image/webp;base64,') == len(suspects[:12]) + len(pairs)


def test_an_audit_that_lies_elsewhere_is_found_where_its_run_put_it(
    command, audited, audited_page, tmp_path, monkeypatch
):
    # As with `audit: {out: looks/wrong}`, and whatever an earlier run left in its place.
    shutil.copytree(audited, tmp_path / "deep" / "runs")
    shutil.copytree(audited / "audit", tmp_path / "looks" / "wrong")
    stale = tmp_path / "deep" / "runs" / "audit" / "audit.json"
    stale.write_text(json.dumps(json.loads(stale.read_text()) | {"images": 7}))
    summary = tmp_path / "deep" / "runs" / "summary.json"
    told = json.loads(summary.read_text())
    told["audit"]["out"] = "looks/wrong"
    summary.write_text(json.dumps(told))
    out = tmp_path / "page.html"
    expected = read_finding(read_sections(audited_page)["audit"])
    for folder in (tmp_path, tmp_path / "looks"):
        monkeypatch.chdir(folder)
        command("report", tmp_path / "deep" / "runs", "--out", out)
        assert read_finding(read_sections(out)["audit"]) == expected
    shutil.rmtree(tmp_path / "looks" / "wrong")
    command("report", tmp_path / "deep" / "runs", "--out", out)
    assert "audit" not in read_sections(out)


def test_an_audit_alone_is_a_chapter(command, audited, tmp_path):
    out = tmp_path / "page.html"
    figures = command("report", audited / "audit", "--out", out, "--json").figures
    (chapter,) = figures["chapters"]
    assert list(chapter["sections"]) == ["audit"] and chapter["missing"] is None
    assert "suspicions about 123 images" in chapter["sections"]["audit"]
    assert "suspicions about 123 images" in command("report", audited / "audit", "--out", out).out


def test_a_group_that_does_badly_is_told_with_its_figures(command, tmp_path):
    # A third of the rows have labels of their neighbours, and one value of a column in common.
    sites = ["bad" if row % 3 == 0 else "good" for row in range(N)]
    labels = [LABELS[row - 7] if site == "bad" else LABELS[row] for row, site in enumerate(sites)]
    file = write_digits(tmp_path, labels=labels, columns={"site": sites})
    call("audit", "--features", file, "--layer", "a_last:avg", "--out", tmp_path / "audit")
    call("report", tmp_path / "audit", "--out", tmp_path / "page.html")
    told = json.loads((tmp_path / "audit" / "audit.json").read_text())
    (bad,) = [one for one in told["groups"] if one["is_bad"]]
    section = read_sections(tmp_path / "page.html")["audit"]
    (row,) = read_table(section, "Groups that do badly")
    assert row[:3] == ["site=bad", "80", f"{100 * bad['accuracy']:.1f} %"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("audit.json", '{"images": 3}'),
        ("audit.json", '{"images": 3, "kinds": [], "issues": 0, "notes": [], "source": "x"}'),
        ("issues.csv", "path,kind\na.png,label\n"),
    ],
)
def test_damaged_tables_are_one_line(refused, audited, tmp_path, name, content):
    shutil.copytree(audited / "audit", tmp_path / "audit")
    (tmp_path / "audit" / name).write_text(content)
    line = refused("report", tmp_path / "audit", "--out", tmp_path / "page.html")
    assert "are damaged" in line
