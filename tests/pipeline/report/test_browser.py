"""The page in a real browser: it is clicked, hovered and walked through with the keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.reports import LABELS, N, find_chromium

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH; PERMAFROST_CHROMIUM names one"
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MAP_LABEL = "Map of the features"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        # Chromium's sandbox needs rights that root in a container does not have.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, page: Path):
    """Open the page; whatever it says on the console or asks of a network is a failure."""
    complaints: list[str] = []
    contexts = []

    def call(*, scheme: str = "light", viewport=DESKTOP, script: bool = True, file: Path = page):
        context = browser.new_context(
            color_scheme=scheme, viewport=viewport, java_script_enabled=script
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.extend(find_complaint(message.text)))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.extend(find_stray(request.url)))
        tab.goto(file.as_uri())
        return tab

    yield call
    for context in contexts:
        context.close()
    assert complaints == []


def find_complaint(text: str) -> list[str]:
    # What `count_ink` does is slow, but none of the page's business.
    return [] if text.startswith("Canvas2D: Multiple readback") else [text]


def find_stray(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:")) else [url]


def find_map(tab):
    return tab.locator("canvas.points")


def count_ink(tab) -> int:
    """Count the pixels of the map that are drawn strongly."""
    count: int = tab.evaluate(
        """async () => {
          // The map is drawn once the page has been laid out.
          for (let n = 0; n < 2; n++) await new Promise(requestAnimationFrame);
          const canvas = document.querySelector("canvas.points");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let n = 0;
          for (let i = 3; i < data.length; i += 4) n += data[i] > 120;
          return n;
        }"""
    )
    return count


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["page", "audited_page"])
def test_axe_finds_nothing(open_page, request, scheme, viewport, name):
    tab = open_page(scheme=scheme, viewport=viewport, file=request.getfixturevalue(name))
    tab.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    found = axe.Axe().run(tab)
    assert found.response["violations"] == []


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["page", "odd_page", "audited_page"])
def test_nothing_is_wider_than_the_screen(open_page, request, viewport, name):
    tab = open_page(viewport=viewport, file=request.getfixturevalue(name))
    assert tab.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    wide = "all => all.filter(one => one.getBoundingClientRect().right > innerWidth).length"
    assert tab.locator(".card, .tiles, h1, h2, h3, .finding, svg").evaluate_all(wide) == 0


def test_no_text_of_a_chart_is_cut(open_page):
    tab = open_page()
    cut = """all => all.filter(text => {
      const own = text.getBoundingClientRect();
      const all = text.closest("svg").getBoundingClientRect();
      return own.width && (own.left < all.left - 1 || own.right > all.right + 1);
    }).map(text => text.textContent)"""
    assert tab.locator(".chart svg text").evaluate_all(cut) == []


def test_suspects_and_copies_are_seen(open_page, audited_page):
    tab = open_page(file=audited_page)
    # A chapter of the experiment, and one of its audit alone.
    for section in ("c1-audit", "c2-audit"):
        pictures = tab.locator(f"section[aria-labelledby^='{section}'] .gallery img")
        for number in range(pictures.count()):
            pictures.nth(number).scroll_into_view_if_needed()
        sizes = pictures.evaluate_all("all => all.map(one => one.naturalWidth)")
        assert len(sizes) >= 4 and all(sizes)


def test_a_mark_says_what_it_is_to_mouse_and_keyboard(open_page):
    tab = open_page()
    chart, tip = tab.locator("#c1-leaderboard ~ .grid .chart"), tab.locator(".tip")
    chart.locator(".mark-symbol.role-mark path").first.hover()
    first = tip.inner_text()
    assert first.startswith("1. ") and "%" in first
    tab.mouse.move(0, 0)
    assert tip.inner_text() == ""
    chart.focus()
    tab.keyboard.press("ArrowDown")
    assert tip.inner_text() == first
    tab.keyboard.press("ArrowDown")
    assert tip.inner_text().startswith("2. ")
    tab.keyboard.press("ArrowUp")
    assert tip.inner_text() == first
    tab.keyboard.press("Escape")
    assert tip.inner_text() == ""


def test_the_map_shows_the_image_under_the_mouse(open_page):
    tab = open_page()
    points = find_map(tab)
    points.scroll_into_view_if_needed()
    x, y = tab.evaluate(
        """() => {
          const data = JSON.parse(document.getElementById("c1-map-data").textContent);
          const canvas = document.querySelector("canvas.points");
          const [across, down] = [canvas.clientWidth - 38, canvas.clientHeight - 38];
          return [14 + data.x[5] * across, 14 + data.y[5] * down];
        }"""
    )
    points.hover(position={"x": x, "y": y})
    tab.locator(".map[data-shown]").wait_for()
    shown = tab.locator(".map").get_attribute("data-shown")
    caption = tab.locator(".shown p").inner_text()
    row = int(re.match(r"(\d+)\.png", shown)[1])
    assert caption.splitlines()[:2] == [shown, f"label: {LABELS[row]}"]
    grey = (
        "document.querySelector('.shown canvas').getContext('2d').getImageData(0, 0, 144, 144).data"
    )
    assert tab.evaluate(f"Array.from({grey}).some((one, i) => i % 4 < 3 && one > 60)")


def test_a_class_is_filtered_by_its_button_and_by_a_point(open_page):
    tab = open_page()
    before = count_ink(tab)
    chip = tab.get_by_role("button", name="digit 3")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    alone = count_ink(tab)
    assert 0 < alone < before / 3
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert count_ink(tab) == before
    find_map(tab).focus()
    tab.keyboard.press("ArrowRight")
    label = tab.locator(".shown p").inner_text().splitlines()[1].removeprefix("label: ")
    tab.keyboard.press("Enter")
    pressed = tab.locator(".chips [aria-pressed=true]")
    assert pressed.all_inner_texts() == [label]
    tab.keyboard.press("Escape")
    assert pressed.count() == 0


def test_the_keyboard_goes_from_image_to_image_in_its_direction(open_page):
    tab = open_page()
    points, caption = find_map(tab), tab.locator(".shown p")
    points.focus()
    tab.keyboard.press("ArrowRight")
    places = []
    for _ in range(4):
        path = caption.inner_text().splitlines()[0]
        places.append(
            tab.evaluate(
                """path => {
                  const data = JSON.parse(document.getElementById("c1-map-data").textContent);
                  return data.x[data.path.indexOf(path)];
                }""",
                path,
            )
        )
        tab.keyboard.press("ArrowRight")
    assert places == sorted(set(places))


def test_mistakes_alone_are_few(open_page):
    tab = open_page()
    before = count_ink(tab)
    tab.get_by_role("button", name="mistakes only").click()
    assert 0 < count_ink(tab) < before / 2


def test_the_first_stop_of_the_keyboard_skips_to_the_content(open_page):
    tab = open_page()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.evaluate(outline) == "solid"


def test_light_and_dark_are_one_drawing_in_two_sets_of_colours(open_page):
    colours = {}
    for scheme in ("light", "dark"):
        tab = open_page(scheme=scheme)
        mark = tab.locator(".mark-symbol.role-mark path").first
        colours[scheme] = mark.evaluate("one => getComputedStyle(one).fill")
    assert colours["light"] != colours["dark"]


def test_without_javascript_all_but_the_map_is_there(open_page):
    tab = open_page(script=False)
    assert tab.locator(".chart svg").count() >= 4
    assert tab.locator(".gallery img").count() > 12
    assert tab.get_by_text("The map needs JavaScript").is_visible()


def test_printed_it_is_light_and_unfolds_nothing_wide(open_page):
    tab = open_page(scheme="dark")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("nav").is_visible()


def test_so_few_images_make_a_small_page(page):
    assert page.stat().st_size < N * 4000 + 500_000
