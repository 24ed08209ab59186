"""The site of the pages, opened from the disk in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

import pytest

from tests.docs.test_commands import list_options
from tests.helpers import ROOT
from tests.helpers.pages import PAGES

pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, any warning being an error."""
    pytest.importorskip("furo", reason='the site needs: pip install ".[docs]"')
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "docs", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    if BROWSER is None:
        pytest.skip("there is no chromium here")
    with api.sync_playwright() as playwright:
        # As root, as in most containers, Chromium runs without its sandbox alone.
        yield playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


class Visit:
    """A tab that notes what goes wrong in it, and what it asks for."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.tab = browser.new_page(**options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", self._note)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


def list_pages(site: Path) -> list[Path]:
    return sorted(site.glob("*.html"))


def test_no_page_complains_or_asks_for_what_is_not_on_the_disk(site: Path, browser: Any) -> None:
    visit = Visit(browser)
    for page in list_pages(site):
        visit.tab.goto(page.as_uri())
        images = "[...document.images].filter(one => !one.naturalWidth).map(one => one.src)"
        assert visit.tab.evaluate(images) == []
    assert visit.complaints == []
    assert {urlparse(url).scheme for url in visit.requests} <= {"file", "data"}
    assert len(list_pages(site)) > len(PAGES)


def test_every_link_leads_to_a_file_and_a_place_in_it(site: Path, browser: Any) -> None:
    visit = Visit(browser)
    places = {
        page: set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))
        for page in list_pages(site)
    }
    for page in places:
        visit.tab.goto(page.as_uri())
        for link in visit.tab.evaluate("[...document.links].map(one => one.href)"):
            url, anchor = urldefrag(link)
            if urlparse(url).scheme == "file":
                file = Path(unquote(urlparse(url).path))
                assert file.is_file(), f"{page.name}: {link}"
                assert not anchor or unquote(anchor) in places[file], f"{page.name}: {link}"


def test_no_page_is_wider_than_a_phone(site: Path, browser: Any) -> None:
    visit = Visit(browser, viewport=PHONE)
    for page in list_pages(site):
        visit.tab.goto(page.as_uri())
        width = visit.tab.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], page.name


def test_the_search_finds_an_option_and_goes_there(site: Path, browser: Any) -> None:
    visit = Visit(browser)
    visit.tab.goto((site / "index.html").as_uri())
    visit.tab.get_by_placeholder("Search").fill("--resize-mode")
    visit.tab.keyboard.press("Enter")
    first = visit.tab.locator("ul.search li a").first
    first.wait_for()
    first.click()
    assert visit.tab.url.endswith("-resize-mode")
    assert visit.complaints == []


def test_the_reference_has_every_option_of_every_command(site: Path) -> None:
    text = (site / "commands.html").read_text(encoding="utf-8")
    shown = set(re.findall(r">(--[a-z][a-z-]+)<", text))
    assert {one for one in list_options() if one.startswith("--")} - {"--help"} <= shown
    assert "SUPPRESS" not in text
