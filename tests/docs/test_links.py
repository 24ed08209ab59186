"""Links between the README, the pages of docs and the files beside them lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.pages import DOCS, PAGES, list_anchors, list_links

ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def name_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_page)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for line, link in list_links(page):
        path, _, anchor = link.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{name_page(page)}:{line}: {link}"
        if anchor:
            assert anchor in list_anchors(file), f"{name_page(page)}:{line}: {link}"


def test_every_page_is_in_the_menu_and_in_the_table_of_the_first_page() -> None:
    index = DOCS / "index.md"
    text = index.read_text(encoding="utf-8")
    pages = {page.stem for page in DOCS.rglob("*.md")} - {"index"}
    assert set(re.findall(r"^.+ <(\w+)>$", text, re.MULTILINE)) == pages
    assert pages <= {Path(link).stem for _, link in list_links(index)}


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / link).resolve() for page in ALL_PAGES for _, link in list_links(page)}
    assert {file for file in (DOCS / "pictures").glob("*.svg") if file not in shown} == set()
