"""The cohort's report in a real browser: quiet, offline, for keyboard, phone and paper.

``GROUP_REPORT=out/group.html`` looks at that report instead of a small one, and
``SCREENSHOTS=docs`` writes what it looks like there.
"""

import os
import runpy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from sodiumprep.bids_app.group import roster
from sodiumprep.bids_app.group.quality import gather_quality
from sodiumprep.bids_app.group.report import write_group_report
from sodiumprep.bids_app.group.shown import Shown

HERE = Path(__file__).parent
devtools = SimpleNamespace(**runpy.run_path(str(HERE / "devtools.py")))
looks = SimpleNamespace(**runpy.run_path(str(HERE / "test_report.py")))
small = SimpleNamespace(**runpy.run_path(str(HERE.parent / "unit" / "test_group_report.py")))
REPORT, SCREENSHOTS = os.environ.get("GROUP_REPORT"), os.environ.get("SCREENSHOTS")
PHONE = 400
pytestmark = pytest.mark.slow


def write_report(folder):
    small.write_cohort(folder)
    missing = pd.DataFrame({"participant_id": ["sub-99"], "session": ["n/a"], "state": ["failed"],
                            "reason": ["the reconstruction crashed"]})  # fmt: skip
    cohort = small.gathered_cohort(folder, small.MODEL)
    return write_group_report(
        folder, Shown(cohort, gather_quality(folder), missing, small.fake_evidence(), ["a note"])
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return Path(REPORT).resolve() if REPORT else write_report(tmp_path_factory.mktemp("cohort"))


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


def test_a_cohort_is_shown_without_a_request_or_a_complaint(page, report):
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.settle()
    outside = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert outside == [report.as_uri()]
    assert page.complaints == []
    assert report.stat().st_size < 10e6
    assert page.run("[...document.images].every(image => image.naturalWidth > 0)")


def test_the_first_screen_says_who_what_and_how_much(page):
    page.resize(1280, 800)
    bottoms = page.run("""["#summary .people", "#summary .means tbody tr", "#summary .asked dt"]
        .map(name => document.querySelector(name).getBoundingClientRect().bottom)""")
    assert max(bottoms) < 800


def test_nothing_scrolls_sideways_on_a_phone(page):
    page.resize(PHONE)
    page.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= PHONE


def test_the_list_of_subjects_filters_and_says_so(page):
    rows = "[...document.querySelectorAll('#subjects tbody tr')].filter(r => !r.hidden).length"
    before = page.run(rows)
    page.run("""(() => { const box = document.querySelector('#subjects input');
        box.value = 'CONTROLS'; box.dispatchEvent(new Event('input')); })()""")
    assert 0 < page.run(rows) < before
    told = page.run("document.querySelector('#subjects [role=status]').textContent")
    assert told == f"{page.run(rows)} of {before} rows"


def test_tables_sort_and_everything_that_acts_has_a_name(page):
    page.click("#planning th[data-column='3'] button")
    head = "document.querySelector('#planning th[data-column=\"3\"]')"
    assert page.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    named = ("button", "link", "image", "region", "heading", "searchbox")
    found = [(role, name) for role, name in page.named() if role in named]
    assert {"button", "link", "image", "searchbox"} <= {role for role, _ in found}
    assert [role for role, name in found if not name.strip()] == []


def test_headings_and_contrast_serve_every_reader(page):
    levels = page.run("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1
    assert all(later - level <= 1 for level, later in pairwise(levels))
    assert page.run(looks.CONTRASTS) == {}


def test_paper_shows_all_rows_and_no_controls(page):
    assert page.printed().startswith(b"%PDF")
    page.emulate(media="print")
    assert page.run("getComputedStyle(document.querySelector('.tools')).display") == "none"


SHOWN = "[...document.querySelectorAll('#subjects tbody tr')].map(row => row.cells[0].textContent)"
STATE = "document.querySelector('#subjects [role=status]').textContent"


@pytest.fixture
def long_list(browser, tmp_path, monkeypatch):
    """Return a page whose list is too long to be written out, with 103 rows."""
    monkeypatch.setattr(roster, "MOST_ROWS", 3)
    small.write_cohort(tmp_path)
    quality = gather_quality(tmp_path)
    more = quality.iloc[[0] * 91].assign(participant_id=[f"sub-x{k:03d}" for k in range(91)])
    cohort = small.gathered_cohort(tmp_path, small.MODEL)
    everybody = pd.concat([quality, more], ignore_index=True)
    none = pd.DataFrame(columns=["participant_id", "session", "state", "reason"])
    browser.emulate()
    browser.open(write_group_report(tmp_path, Shown(cohort, everybody, none, {}, [])))
    return browser


def test_a_long_list_is_turned_page_by_page_sorted_and_filtered(long_list):
    page = long_list
    assert (len(page.run(SHOWN)), page.run(STATE)) == (100, "rows 1 to 100 of 103")
    page.run("[...document.querySelectorAll('#subjects .tools button')].at(-1).click()")
    assert page.run(SHOWN) == ["sub-x088", "sub-x089", "sub-x090"]
    page.click("#subjects th[data-column='2'] button")
    page.click("#subjects th[data-column='2'] button")
    assert page.run(SHOWN)[:2] == ["sub-11", "sub-10"]  # the largest GM; the unknown ones last
    assert page.run("document.querySelector('#subjects tbody a').getAttribute('href')") == (
        "sub-11.html"
    )
    page.run("""(() => { const box = document.querySelector('#subjects input');
        box.value = 'x09'; box.dispatchEvent(new Event('input')); })()""")
    assert page.run(SHOWN) == ["sub-x090"]
    assert page.complaints == []


@pytest.mark.skipif(not SCREENSHOTS, reason="written on request: SCREENSHOTS=folder")
def test_screenshots_are_small(page):
    for name, width in (("group", 1280), ("group_phone", PHONE)):
        page.resize(width, 800)
        path = Path(SCREENSHOTS) / f"{name}.png"
        page.screenshot(path)
        assert path.stat().st_size < 300e3
