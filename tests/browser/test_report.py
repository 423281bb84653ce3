"""The subject's report in a real browser: quiet, offline, for keyboard, phone and paper.

``REPORT=demo/derivatives/sub-04.html`` looks at that report instead of a small one, and
``SCREENSHOTS=docs`` writes what it looks like there.
"""

import os
import runpy
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sodiumprep.bids_app import figures
from sodiumprep.bids_app.names import DerivativeNames
from sodiumprep.bids_app.report import write_report

HERE = Path(__file__).parent
devtools = SimpleNamespace(**runpy.run_path(str(HERE / "devtools.py")))
small = SimpleNamespace(**runpy.run_path(str(HERE.parent / "unit" / "test_report.py")))
REPORT, SCREENSHOTS = os.environ.get("REPORT"), os.environ.get("SCREENSHOTS")
PHONE = 400
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the path of a report with many warnings and an unknown value."""
    if REPORT:
        return Path(REPORT).resolve()
    names = DerivativeNames(tmp_path_factory.mktemp("report"), "01")
    small.write_anatomy(names)
    told = [f"warning {n} that is long enough to take a line of its own" for n in range(9)]
    metrics = small.fake_metrics(Warnings=[*told, small.HOSTILE])
    small.write_sodium(names, **metrics)
    table = small.fake_table()
    table.loc[table["name"] == "CSF", ["mean", "ci_low", "ci_high"]] = np.nan
    small.write_table(names, table, metrics)
    small.write_history(names.out_dir, small.HOSTILE)
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "PNG_DPI", 20)
        path = write_report(names.out_dir, "01")
    assert time.monotonic() - started < 15
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = devtools.find_chromium()
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM to its path")
    page = devtools.Page(program, tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(browser, report):
    browser.emulate()
    browser.open(report)
    return browser


def test_a_report_asks_for_nothing_and_complains_of_nothing(page, report):
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.settle()
    outside = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert outside == [report.as_uri()]
    assert page.complaints == []
    assert report.stat().st_size < 10e6
    assert page.run("[...document.images].every(image => image.naturalWidth > 0)")


def test_a_page_that_asks_and_complains_is_noticed(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://127.0.0.1:9/a.png"><script>missing()</script>')
    browser.open(path)
    assert "http://127.0.0.1:9/a.png" in browser.requests
    assert len(browser.complaints) >= 2


def test_the_policy_of_the_page_stops_what_would_ask_a_network(page):
    page.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/a'}))")
    page.run("fetch('http://127.0.0.1:9/b').catch(() => 0)")
    page.settle()
    assert any("Content Security Policy" in text for text in page.complaints)


@pytest.mark.parametrize("width", [1280, PHONE])
def test_values_and_warnings_stand_in_the_first_screen(page, width):
    page.resize(width, 800)
    alerts, cards = (
        page.run(f"""[...document.querySelectorAll("#summary {name}")]
            .map(shown => shown.getBoundingClientRect().bottom)""")
        for name in (".alert", ".card")
    )
    assert len(cards) >= 3
    if alerts:
        assert alerts[0] < min(cards)
    assert (max(cards) if width > PHONE else min(cards)) < 800


def test_nothing_scrolls_sideways_on_a_phone(page):
    page.resize(PHONE)
    assert page.run("document.documentElement.scrollWidth") <= PHONE
    page.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= PHONE


def test_what_scrolls_by_itself_is_reached_by_keyboard_and_named(page):
    page.resize(PHONE)
    boxes = page.run("""[...document.querySelectorAll(".scroll")]
        .filter(box => box.scrollWidth > box.clientWidth + 1)
        .map(box => [box.tabIndex, box.getAttribute("role"), box.getAttribute("aria-label")])""")
    assert boxes
    assert all(tab == 0 and role == "region" and name for tab, role, name in boxes)


def test_the_flicker_follows_mouse_and_keyboard(page):
    shown = "getComputedStyle(document.querySelector('.flip .over')).visibility"
    assert page.run(shown) == "visible"
    page.click(".switch + label")
    assert page.run(shown) == "hidden"
    page.run("document.querySelector('.switch').focus()")
    page.press(" ")
    assert page.run(shown) == "visible"
    assert (
        page.run("getComputedStyle(document.querySelector('.switch + label')).outlineStyle")
        == "solid"
    )


HEAD = "table.regions th[data-column='4']"
ROWS = "[...document.querySelectorAll('table.regions tbody tr')]"
COLUMN = f"{ROWS}.map(row => parseFloat(row.cells[4].textContent))"
NAMES = f"{ROWS}.map(row => row.cells[0].textContent)"
SORTED = f'document.querySelector("{HEAD}").getAttribute("aria-sort")'


def in_order(values, sign):
    """Tell whether the known values follow each other, and the unknown ones them all."""
    known = [value for value in values if value is not None]
    follow = all(sign * (later - value) >= 0 for value, later in pairwise(known))
    return follow and None not in values[: len(known)]


def test_the_regional_table_sorts_by_mouse_and_keyboard(page):
    assert page.run(SORTED) is None
    before = page.run(NAMES)
    page.click(f"{HEAD} button")
    assert page.run(SORTED) == "ascending"
    assert in_order(page.run(COLUMN), 1)
    assert sorted(page.run(NAMES)) == sorted(before) != page.run(NAMES)
    page.run(f'document.querySelector("{HEAD} button").focus()')
    page.press("Enter")
    assert page.run(SORTED) == "descending"
    assert in_order(page.run(COLUMN), -1)
    page.press(" ")
    assert page.run(SORTED) == "ascending"


def test_one_column_at_a_time_is_told_to_be_sorted_and_names_sort_as_text(page):
    page.click(f"{HEAD} button")
    page.click("table.regions th[data-column='0'] button")
    assert page.run("document.querySelectorAll('table.regions [aria-sort]').length") == 1
    names = page.run(NAMES)
    assert names == sorted(names, key=str.lower)


def test_everything_that_acts_or_shows_has_a_name(page):
    roles = (
        "button",
        "checkbox",
        "link",
        "image",
        "region",
        "table",
        "heading",
        "slider",
        "textbox",
    )
    found = [(role, name) for role, name in page.named() if role in roles]
    assert {"button", "checkbox", "link", "image", "heading"} <= {role for role, _ in found}
    assert [role for role, name in found if not name.strip() and role != "table"] == []


def test_the_first_key_leads_to_the_results_and_the_focus_is_seen(page):
    page.press("Tab")
    focus = "document.activeElement"
    assert page.run(f"{focus}.className") == "skip"
    assert page.run(f"{focus}.getBoundingClientRect().top") >= 0
    assert page.run(f"getComputedStyle({focus}).outlineStyle") == "solid"
    page.press("Enter")
    assert page.run(f"{focus}.id") == "main"


def test_language_and_headings_lead_a_screen_reader(page):
    assert page.run("document.documentElement.lang") == "en"
    levels = page.run("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1
    assert all(later - level <= 1 for level, later in pairwise(levels))


CONTRASTS = """(() => {
    const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    function ground(shown) {
        for (; shown; shown = shown.parentElement) {
            const color = rgb(getComputedStyle(shown).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    }
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = {};
    while (texts.nextNode()) {
        const shown = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !shown.getClientRects().length) continue;
        const [one, two] = [rgb(getComputedStyle(shown).color), ground(shown)].map(light);
        const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        if (ratio < 4.5) found[shown.tagName + "." + shown.className] = ratio;
    }
    return found;
})()"""


def test_every_text_stands_out_from_its_ground(page):
    assert page.run(CONTRASTS) == {}
    page.run("document.querySelector('.note').style.color = '#aaaaaa'")
    assert list(page.run(CONTRASTS)) == ["P.note"]


@pytest.mark.parametrize(("wish", "behaviour"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_nothing_moves_for_whom_motion_disturbs(page, wish, behaviour):
    page.emulate(prefers_reduced_motion=wish)
    assert page.run("getComputedStyle(document.documentElement).scrollBehavior") == behaviour


def test_paper_shows_what_is_folded_and_no_controls(page):
    page.run("""globalThis.closed = null;
        addEventListener("beforeprint", () => {
            closed = document.querySelectorAll("details:not([open])").length; });""")
    folded = page.run("document.querySelectorAll('details:not([open])').length")
    assert page.printed().startswith(b"%PDF")
    assert folded > 0
    assert page.run("closed") == 0
    assert page.run("document.querySelectorAll('details:not([open])').length") == folded
    page.emulate(media="print")
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"


def arrives(browser, heading):
    """Wait for a page that begins so; while one gives way to another there is none to ask."""
    for _ in range(100):
        with suppress(RuntimeError, TypeError):
            if browser.run("document.querySelector('h1').textContent").startswith(heading):
                return True
        time.sleep(0.1)
    return False


def test_pages_of_sessions_lead_to_each_other(browser, tmp_path):
    for session in "12":
        names = DerivativeNames(tmp_path, "01", session=session)
        names.folder.mkdir(parents=True)
        small.write_table(names, small.fake_table(), small.fake_metrics())
    browser.open(write_report(tmp_path, "01", sessions_at_most=1))
    browser.click("section#ses-2 a")
    assert arrives(browser, "sub-01 ses-2")
    assert browser.run("document.querySelector('nav a').getAttribute('href')") == "sub-01.html"


@pytest.mark.skipif(not SCREENSHOTS, reason="written on request: SCREENSHOTS=folder")
def test_screenshots_are_small(page):
    for name, width, height in (("report", 1280, 800), ("report_phone", PHONE, 800)):
        page.resize(width, height)
        path = Path(SCREENSHOTS) / f"{name}.png"
        page.screenshot(path)
        assert path.stat().st_size < 300e3
    page.resize(1280, 800)
    page.click(f"{HEAD} button")
    page.run("document.querySelector('table.regions').scrollIntoView({behavior: 'instant'})")
    page.settle()
    path = Path(SCREENSHOTS) / "report_regions.png"
    page.screenshot(path)
    assert path.stat().st_size < 300e3
