"""The interactive view in a real browser: it tells what the files hold and works by keyboard."""

import os
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sodiumprep.bids_app import figures
from sodiumprep.bids_app.names import DerivativeNames
from sodiumprep.bids_app.report import write_report

HERE = Path(__file__).parent
REPORT, SCREENSHOTS = os.environ.get("REPORT"), os.environ.get("SCREENSHOTS")
pytestmark = pytest.mark.slow
VIEW = "#view-acq-23Na"
UNPACKED = f"""new Promise((done, fail) => {{
    const end = Date.now() + 20000;
    (function look() {{
        if (!document.querySelector('{VIEW} [data-part="all"]').hidden) return done(true);
        if (Date.now() > end) return fail(new Error(document.querySelector(
            '{VIEW} [data-part="state"]').textContent));
        setTimeout(look, 20); }})(); }})"""


devtools = SimpleNamespace(**runpy.run_path(str(HERE / "devtools.py")))
cases = SimpleNamespace(**runpy.run_path(str(HERE.parent / "unit" / "test_viewer.py")))
devtools.KEYS.update(
    ArrowLeft=(37, ""), ArrowUp=(38, ""), ArrowRight=(39, ""), ArrowDown=(40, ""), PageUp=(33, "")
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    program = devtools.find_chromium()
    if program is None:
        pytest.skip("no Chromium")
    opened = devtools.Page(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Return a head on an oblique left-handed grid with sodium on another, and its page."""
    folder = tmp_path_factory.mktemp("view")
    made = cases.write_case(folder, "oblique and left-handed", "oblique and left-handed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "PNG_DPI", 10)
        write_report(folder, "01", [])
    return made


@pytest.fixture
def view(page, case):
    page.open(case.names.report())
    page.run(UNPACKED)
    page.settle()
    return page


def go(view, point):
    for axis, value in enumerate(point):
        view.run(f"""(() => {{ const field = document.querySelector('{VIEW} [data-axis="{axis}"]');
            field.value = {value}; field.dispatchEvent(new Event("change")); }})()""")
    view.settle()


def text(view, selector):
    return view.run(f"document.querySelector('{VIEW} {selector}').textContent")


def place(view):
    found = re.findall(r"[xyz] (\S+?),? ", text(view, '[data-part="value"]').replace("−", "-"))
    return [float(number) for number in found]


def rows(view):
    listed = f"[...document.querySelectorAll('{VIEW} tbody tr')].map(row => [1, 2].map("
    return view.run(listed + "n => row.cells[n].textContent))")


def choose(view, name, value):
    view.run(f"""(() => {{ const field = document.querySelector('{VIEW} [data-part="{name}"]');
        if (field.type === "checkbox") field.checked = {str(bool(value)).lower()};
        else field.value = "{value}";
        field.dispatchEvent(new Event("input")); }})()""")
    view.settle()


def pixel(view, plane, point):
    """Return red, green and blue where a point of the head is drawn."""
    across, up = [(0, 1), (0, 2), (1, 2)][plane]
    return view.run(f"""(() => {{
        const canvas = document.querySelectorAll('{VIEW} canvas[data-plane]')[{plane}];
        const held = JSON.parse(document.querySelector('{VIEW} script').textContent);
        const x = Math.round(({point[across]} - held.low[{across}]) / 0.7);
        const y = canvas.height - 1 - Math.round(({point[up]} - held.low[{up}]) / 0.7);
        return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3); }})()""")


def test_the_page_asks_for_nothing_and_complains_of_nothing(view, case):
    assert view.complaints == []
    asked = {url for url in view.requests if not url.startswith(("data:", "blob:"))}
    assert asked == {case.names.report().resolve().as_uri()}


def test_the_number_at_a_place_is_that_of_the_file(view, case):
    points = np.random.default_rng(8).uniform(-22, 22, (25, 3)).round(1)
    known = 0
    for point in points:
        go(view, point)
        assert place(view) == point.tolist()
        for told, name in rows(view):
            truth = case.truth(case.names.folder / name, [point])[0]
            known += told != "n/a"
            assert (told == "n/a") == bool(np.isnan(truth))
            assert told == "n/a" or abs(float(told) - truth) <= 0.1
    assert known > 60


def test_the_cross_moves_by_keyboard_and_the_number_with_it(view, case):
    go(view, [0, 0, 0])
    view.run(f"document.querySelector('{VIEW} canvas[data-plane=\"0\"]').focus()")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "PageUp"):
        view.press(key)
    assert place(view) == [-2, 1, 1]
    view.run(f"document.querySelector('{VIEW} canvas[data-plane=\"2\"]').focus()")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "PageUp"):
        view.press(key)
    assert place(view) == [-1, 2, -1]
    truth = case.truth(case.names.tsc_map("corrected"), [[-1, 2, -1]])[0]
    assert f"{truth:.1f} mmol/L".replace("-", "−") in text(view, '[data-part="value"]')


def test_left_is_left_and_a_click_sets_the_cross(view):
    choose(view, "opacity", 0)
    choose(view, "outlines", False)
    go(view, np.add(cases.LESION, [3, 3, 0]))
    mirrored = cases.LESION * [-1, 1, 1]
    assert pixel(view, 0, cases.LESION)[0] > 2 * pixel(view, 0, mirrored)[0] > 20
    view.run(f"""(() => {{
        const canvas = document.querySelector('{VIEW} canvas[data-plane="0"]');
        const box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new PointerEvent("pointerdown", {{pointerType: "touch",
            clientX: box.x + 0.1 * box.width, clientY: box.y + 0.25 * box.height}})); }})()""")
    view.settle()
    x, y, z = place(view)
    assert x < -12
    assert y > 5
    assert z == cases.LESION[2]


def test_region_colours_threshold_and_map_follow_what_is_chosen(view, case):
    point = np.add(cases.LESION, [2, 0, 0])
    go(view, point)
    assert " core " in text(view, '[data-part="value"]')
    choose(view, "map", 1)
    assert text(view, '[data-part="value"]').startswith("apparent: ")
    choose(view, "opacity", 1)
    choose(view, "outlines", False)
    choose(view, "smooth", False)
    choose(view, "threshold", -1000)
    beside = np.add(point, [0, 2.1, 0])
    value = case.truth(case.names.tsc_map("apparent"), [beside])[0]
    entry = int(np.clip(np.floor(value / 150 * 256), 0, 255))
    color = figures.mpl.colormaps["inferno"](entry, bytes=True)[:3]
    assert np.abs(np.subtract(pixel(view, 0, beside), color)).max() <= 3
    choose(view, "threshold", 1000)
    assert len(set(pixel(view, 0, beside))) == 1  # grey: the anatomy alone


def test_the_view_fits_a_phone_and_is_told_to_a_screen_reader(view):
    named = dict(reversed(pair) for pair in view.named())
    assert named["Concentration maps in three planes"] == "group"
    for plane in ("Axial", "Coronal", "Sagittal"):
        assert any(name.startswith(f"{plane} plane. Arrow keys") for name in named)
    view.resize(400)
    widths = view.run("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    canvas = f"document.querySelector('{VIEW} canvas[data-plane]')"
    assert view.run(f"{canvas}.getBoundingClientRect().width") > 300


def test_a_browser_that_cannot_unpack_says_so(page, case, tmp_path):
    old = tmp_path / "old.html"
    held = case.names.report().read_text()
    old.write_text(
        held.replace("<head>", "<head><script>delete window.DecompressionStream</script>")
    )
    page.open(old)
    assert "too old for the view" in text(page, '[data-part="state"]')
    assert page.run(f"document.querySelector('{VIEW} [data-part=\"all\"]').hidden")


def test_sodium_alone_is_shown_without_an_anatomy(page, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "PNG_DPI", 10)
    names = DerivativeNames(tmp_path, "01")
    names.folder.mkdir(parents=True)
    affine = cases.centred(cases.AXES["left-handed"], [4.1, 3.9, 4.0], cases.SODIUM)
    cases.write_maps(names, affine)
    page.open(write_report(tmp_path, "01", []))
    page.run(UNPACKED)
    point = (affine @ [2, 9, 11, 1])[:3].round(1)
    go(page, point)
    truth = np.asarray(cases.nib.load(names.tsc_map("corrected")).dataobj)[2, 9, 11]
    assert abs(float(rows(page)[0][0]) - truth) <= 0.1
    assert page.complaints == []


@pytest.mark.skipif(not (REPORT and SCREENSHOTS), reason="written on request: SCREENSHOTS=folder")
def test_the_screenshot_of_the_view_is_small(page):
    page.open(REPORT, 860, 560)
    page.run(UNPACKED)
    page.run(f"document.querySelector('{VIEW}').scrollIntoView({{behavior: 'instant'}})")
    page.run("window.scrollBy(0, -50)")
    choose(page, "opacity", 0.65)
    path = Path(SCREENSHOTS) / "report_viewer.png"
    page.screenshot(path)
    assert path.stat().st_size < 300e3
    assert page.complaints == []
