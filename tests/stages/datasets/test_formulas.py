"""Cells that spreadsheets run: none is written, and every text comes back as it was."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from permafrost.stages.datasets.manifest import Manifest, read_manifest, write_manifest
from permafrost.stages.datasets.table import parse_table, write_csv

FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+cmd",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "\t=1",
    "\r=1",
    "＝1+1",
    "＋1",
    "－1+1",
    "＠SUM(1)",
    "x;=1+1",
    "x\n=1+1",
    "-",
    "-.",
    "-1e",
]
HARMLESS = ["-1", "+1.5", "-.5e-3", "1e5", "'quoted'", "'", "a=b", "3-4", "cat", "", "-1;+2", "'-1"]


def write(header, *columns):
    stream = io.StringIO(newline="")
    write_csv(stream, header, columns)
    return stream.getvalue()


def read(text):
    return parse_table(io.StringIO(text, newline=""), name="t.csv")


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_and_no_header_is_a_formula(text):
    table = write(["label", text], [text], [text])
    # As a spreadsheet cuts it, whichever sign separates its columns.
    cells = re.split(r'["]*[,;\t\r\n]+["]*', table)
    assert not [cell for cell in cells if re.match(r"[=+\-@＝＋－＠]", cell)]
    table = write(["path", "label", text], [text], [text], [text])
    rows = list(csv.reader(io.StringIO(table, newline="")))
    assert not [cell for row in rows for cell in row if re.match(r"[=+\-@\t\r＝＋－＠]", cell)]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_formula_is_written_and_read_as_it_is(text):
    table = io.StringIO(write(["label", text], [text], [1.5]), newline="")
    assert list(csv.reader(table)) == [["label", text], [text, "1.5"]]
    assert read(f'path,label\na.jpg,"{text}"\n').known["label"] == [text]


def test_numbers_are_left_alone():
    assert write(["a", "b"], [-1.5, -2], ["-1.5", "-2"]) == "a,b\n-1.5,-1.5\n-2,-2\n"


def test_a_path_still_names_its_file(tmp_path):
    names = ["=1.jpg", "-a/b.jpg", "@x/=y.jpg", "'=z.jpg", "plain.jpg", "./own.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    text = write(["path"], names)
    for line in text.splitlines()[1:]:
        assert (tmp_path / line).is_file()
        assert line[0] not in "=+-@"
    assert read(text).known["path"] == names


TEXTS = st.text(st.sampled_from("='+-@\t\r\n;,\"1a./ ＝＋é"), max_size=8) | st.text(max_size=8)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(label=TEXTS, path=TEXTS.filter(bool), extra=TEXTS)
@example(label="''=x", path="./=x", extra="\t\r=1")
@example(label="'", path="././-", extra=";'=")
def test_every_manifest_comes_back_as_it_was(label, path, extra, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "manifest.csv"
    written = Manifest(
        root=str(file.parent),
        paths=[path],
        labels=[label],
        splits=[""],
        digests=[b""],
        extra={"caption": [extra]},
    )
    try:
        write_manifest(written, file)
    except UnicodeEncodeError:  # A lone surrogate is no text that a file or a CSV can hold.
        return
    assert read_manifest(file) == written
