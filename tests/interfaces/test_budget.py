"""Whoever has a pocket calculator and the report arrives at the numbers of the table."""

import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sodiumprep.bids_app import budget, charts, figures
from sodiumprep.bids_app.names import DerivativeNames
from sodiumprep.bids_app.report import write_report
from sodiumprep.interfaces.calibrate import Calibrate
from sodiumprep.interfaces.coil_fields import AssessTransmit, _save
from sodiumprep.interfaces.concentration import TabulateRegions
from sodiumprep.interfaces.outputs import NOT_SAVED, SODIUM_FILES, SaveSodium
from sodiumprep.sodium.smooth_field import SmoothField

CASES = [(reference, known) for reference in ("vials", "csf") for known in (False, True)]
REGIONS = ["GM", "WM", "CSF"]
ROUNDED = 3e-5  # relative, of what is computed from numbers of six digits


@dataclass
class Block:
    """What stands in the section before the regions, or in the entry of a region."""

    equations: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    summary: str = ""

    def equation(self, name):
        """Return the numbers of an equation as they are shown, and its result."""
        split = [text.split(" = ") for text in self.equations]
        (parts,) = (parts for parts in split if parts[0] == name and len(parts) > 2)
        return parts[-2], parts[-1].split()[0]

    def row(self, name):
        (found,) = (cells[1:] for cells in self.rows if cells[0] == name)
        return found


class Shown(HTMLParser):
    """The words of the section on the origin of the numbers, as a browser shows them."""

    def __init__(self, page):
        super().__init__()
        self.blocks, self.words = [Block()], []
        start = page.index("<h2>How each number came about</h2>")
        self.feed(page[start : page.index("</section>", start)])

    def handle_starttag(self, tag, attrs):
        if tag == "details":
            self.blocks.append(Block())
        if tag == "tr":
            self.blocks[-1].rows.append([])
        if tag in ("p", "td", "th", "summary"):
            self.words = []

    def handle_data(self, data):
        self.words.append(data)

    def handle_endtag(self, tag):
        text, block = " ".join("".join(self.words).split()), self.blocks[-1]
        if tag == "p":
            block.equations.append(text)
        if tag == "summary":
            block.summary = text
        if tag in ("td", "th"):
            block.rows[-1].append(text)

    @property
    def regions(self):
        return {block.summary.split()[0]: block for block in self.blocks[1:]}


def calculated(numbers):
    """Type an equation of the report into a calculator."""
    text = numbers.translate(str.maketrans("−·[]", "-*()"))
    text = re.sub(r"([\d.]+)°", r"\1 * pi / 180", text)
    assert re.fullmatch(r"(?:exp|sin|cos|pi|[-+*/(). \d])+", text), text
    known = {name: getattr(math, name) for name in ("exp", "sin", "cos", "pi")}
    return eval(text, {"__builtins__": {}}, known)


def same(found, shown, slack=0.0):
    """Tell whether a number is the one that is shown, to the digits that are shown."""
    decimals = len(shown.partition(".")[2])
    return abs(found - float(shown)) <= 0.5001 * 10.0**-decimals + slack


def number_of(text):
    return float(text.split()[0])


def factor_of(block):
    """Compute the relaxation factor from the constants alone."""
    numbers, left = block.equation("E")
    exact = calculated(numbers)
    assert same(exact, left)
    numbers, factor = block.equation("F")
    found = calculated(numbers.replace(left, repr(exact)))
    assert found == pytest.approx(float(factor), rel=6e-6)
    return factor, found


def check_value(block, row):
    shown, factor = factor_of(block)
    numbers, result = block.equation("C")
    assert numbers.count(shown) == 1
    found = calculated(numbers.replace(shown, repr(factor)))
    assert same(found, result, ROUNDED * found)
    assert found == pytest.approx(row["mean"], rel=ROUNDED)
    assert f"{row['mean']:.2f}" == result == block.summary.split()[1]


def check_uncertainty(block, row):
    terms = {cells[0]: float(cells[1]) for cells in block.rows if cells[0].startswith("u_")}
    combined = block.row("combined")[0]
    assert same(math.hypot(*terms.values()), combined, 0.0005 * math.sqrt(len(terms)))
    assert same(row["uncertainty"], combined)
    largest = max(terms, key=terms.get)
    named, share = re.search(r"largest term: (\w+) \(([\d.]+) %", block.summary).groups()
    assert largest == f"u_{named}"
    assert 100 * (terms[largest] / math.hypot(*terms.values())) ** 2 == pytest.approx(
        float(share), abs=1
    )
    low, _, high = block.row("95 % interval")[0].split()
    value, half = float(block.equation("C")[1]), 1.96 * float(combined)
    assert same(value - half, low, 0.02)
    assert same(value + half, high, 0.02)


def check_worth(block, rows):
    """Compute what is left without each correction; return the labels."""
    start = next(k for k, cells in enumerate(block.rows) if cells[1] == "S")
    told = {cells[0]: cells[1:] for cells in block.rows[start + 1 :]}
    for signal, slope, intercept, factor, value, change in told.values():
        found = (float(signal) - float(intercept)) / (float(slope) * float(factor))
        assert same(found, value, ROUNDED * found)
        reported = float(told["as reported"][4])
        assert not change or same(100 * (found / reported - 1), change.rstrip(" %"), 0.03)
    for label, kind in (("as reported", ("gtm", "corrected")),
                        ("without relaxation correction", ("gtm", "apparent")),
                        ("without partial-volume correction", ("none", "corrected"))):  # fmt: skip
        assert told[label][4] == f"{rows.loc[kind]['mean']:.2f}"
    return set(told)


def check(page, table):
    """Compute everything that the section shows again, from what it shows."""
    shown = Shown(page)
    assert list(shown.regions) == REGIONS
    for name, block in shown.regions.items():
        rows = table[table.name == name].set_index(["pvc", "desc"])
        row = rows.loc[("gtm", "corrected")]
        check_value(block, row)
        check_uncertainty(block, row)
        check_worth(block, rows)
    return shown


@pytest.fixture(scope="module")
def transmit_file(head, measured, protocol, run_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transmit")
    orders = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    bent = SmoothField(np.full(3, -60.0), np.full(3, 160.0), orders, np.array([0.1, 0.2, -0.15]),
                       np.diag([1e-4] * 3))  # fmt: skip
    assess = AssessTransmit(
        model_file=_save(folder / "field.npz", bent), image_file=measured["image_file"],
        regions_file=measured["regions_file"], tissues=head["tissues"], protocol=protocol,
    )  # fmt: skip
    return run_in(assess, folder / "assess").transmit_file


@pytest.fixture(scope="module")
def written(head, measured, vials, protocol, transmit_file, run_in, tmp_path_factory):
    """Take the head from its image to the report; return the page and the table."""
    warm = [dict(vial, temperature=degrees) for vial, degrees in zip(vials, (37.0, 21.5))]  # noqa: B905
    files = {k: measured[k] for k in ("regions_file", "signals_file")}
    known = {"tissues": head["tissues"], "protocol": protocol, "properties": head["properties"]}
    image, noise = measured["image_file"], measured["noise_file"]

    def report(reference, with_transmit, draws=0):
        folder = tmp_path_factory.mktemp("report")
        more = files | known | ({"transmit_file": transmit_file} if with_transmit else {})
        line = Calibrate(reference=reference, vials=warm, static_file=image,
                         static_noise_file=noise, **more)  # fmt: skip
        line_file = run_in(line, folder / "line").calibration_file
        table = TabulateRegions(image_file=image, noise_file=noise, calibration_file=line_file,
                                monte_carlo=draws, **more)  # fmt: skip
        made = run_in(table, folder / "table").get()
        names = DerivativeNames(folder / "out", "01")
        saved = [port for port in SODIUM_FILES if port not in NOT_SAVED]
        targets = {port: str(folder / "rest" / f"{port}.nii.gz") for port in saved}
        targets |= {"table_file": str(names.tsc_table()), "qc": str(names.qc()),
                    "xfm_file": str(folder / "rest" / "xfm.txt")}  # fmt: skip
        sources = dict.fromkeys(saved, image) | made | {"xfm_file": head["xfm_file"]}
        save = SaveSodium(outputs=targets, provenance={"Sources": []}, tissues=head["tissues"],
                          properties=head["properties"], calibration_file=line_file,
                          uncertainty_terms={"noise": "as drawn"},
                          **sources)  # fmt: skip
        run_in(save, folder / "save")
        with pytest.MonkeyPatch.context() as patch:
            drawn = ((charts, "calibration"), (charts, "regions"), (figures, "receive"))
            for module, name in drawn:
                patch.setattr(module, f"{name}_figure", lambda *_: Figure(figsize=(1, 1)))
            page = write_report(folder / "out", "01", []).read_text()
        return page, pd.read_csv(names.tsc_table(), sep="\t", na_values="n/a")

    return {case: report(*case) for case in CASES} | {"drawn": report("vials", True, 400)}


@pytest.mark.parametrize("case", CASES)
def test_a_calculator_arrives_at_every_number_of_the_table(written, case):
    shown = check(*written[case])
    labels = {cells[0] for cells in shown.regions["GM"].rows}
    assert ("without flip-angle correction" in labels) == case[1]


def test_drawn_uncertainties_stand_beside_the_root_of_the_squares(written):
    page, table = written["drawn"]
    rows = table[(table.pvc == "gtm") & (table.desc == "corrected")].set_index("name")
    for name, block in Shown(page).regions.items():
        terms = [float(cells[1]) for cells in block.rows if cells[0].startswith("u_")]
        assert same(math.hypot(*terms), block.row("combined")[0], 0.001 * len(terms))
        drawn, how = block.row("drawn")
        assert same(rows.loc[name, "uncertainty"], drawn)
        assert "400 draws" in how
        ends, how = block.row("95 % interval")
        assert same(rows.loc[name, "ci_low"], ends.split()[0])
        assert "percentile" in how
    assert "drawn" not in {
        cells[0] for cells in Shown(written["vials", True][0]).regions["GM"].rows
    }


@pytest.mark.parametrize("with_transmit", [False, True])
def test_the_vials_give_the_line_that_is_shown(written, with_transmit):
    shown = Shown(written["vials", with_transmit][0])
    slope, intercept = re.search(
        r"a = (\S+) signal per mmol/L, b = ([\d.]+)", written["vials", with_transmit][0]
    ).groups()
    head, *vials = shown.blocks[0].rows
    assert head[:5] == ["Vial", "c [mmol/L]", "[°C]", "m", "F"]
    factors = 2 if with_transmit else 1
    for cells in vials:
        stated, degrees, warm = number_of(cells[1]), float(cells[2]), float(cells[3])
        assert warm == pytest.approx(310 / (degrees + 273.15), rel=6e-6)
        expected = stated * warm * math.prod(map(float, cells[4 : 4 + factors]))
        x, signal, _, left = cells[4 + factors :]
        assert expected == pytest.approx(float(x), rel=ROUNDED)
        residual = (number_of(signal) - float(intercept)) / float(slope) - float(x)
        assert same(residual, left, 1e-3)
    used = shown.regions["GM"].equation("C")[0]
    assert used.split("/")[1].strip(" (").startswith(f"{slope} ·")


@pytest.mark.parametrize("with_transmit", [False, True])
def test_the_fluid_gives_the_slope_that_is_shown(written, with_transmit):
    shown = Shown(written["csf", with_transmit][0])
    fluid, regions = shown.blocks[0], shown.regions
    assert factor_of(fluid) == factor_of(regions["CSF"])
    numbers, slope = fluid.equation("a")
    assert calculated(numbers) == pytest.approx(float(slope), rel=ROUNDED)
    assert slope in regions["GM"].equation("C")[0]
    assert "no result" in " ".join(regions["CSF"].equations)
    assert regions["CSF"].equation("C")[1] == "145.00"


def test_fluid_that_calibrates_is_what_is_assumed_without_the_flip_angle_too(written):
    shown = Shown(written["csf", True][0]).regions
    assert shown["CSF"].row("without flip-angle correction")[4:] == ["145.00", "+0.0 %"]
    assert float(shown["GM"].row("without flip-angle correction")[4]) != float(
        shown["GM"].equation("C")[1]
    )


def changed(text, pattern):
    """Make the first number after a pattern larger by 3 %."""
    found = re.search(pattern + r"([\d.]+)", text, re.S)
    return text[: found.start(1)] + f"{float(found[1]) * 1.03:.6g}" + text[found.end(1) :]


VALUE = r"C = \(S − b\).*?<span>= "


@pytest.mark.parametrize("pattern", [
    r"<span>= exp\(−", r"<span>= exp\(−120 / ", r"F</span> <span>= \(1 − ", r"· \[",
    r"· exp\(−", r"· exp\(−[\d.]+ / ", r"\+ ", r"\+ [\d.]+ · exp\(−[\d.]+ / ",
    VALUE + r"\(", VALUE + r"\(.*? / \(", VALUE + r"\(.*? / \([\d.]+ · ",
    VALUE + r"\(.*? / \([\d.]+ · [\d.]+ · ", VALUE + ".*?<b>",
    r"u_pvc</th><td>", r"combined</th><td class=\"key\">",
    r"95 % interval</th><td class=\"key\">", r"largest term: \w+ \(", r"as reported</th><td>",
])  # fmt: skip
def test_any_other_number_on_the_page_is_noticed(written, pattern):
    page, table = written["vials", True]
    check(page, table)
    start = page.index("<h3>Regions</h3>")
    with pytest.raises(AssertionError):
        check(page[:start] + changed(page[start:], pattern), table)


def test_a_sidecar_of_another_run_is_told(written):
    page, _ = written["vials", False]
    assert "The numbers do not fit" not in page
    run = FakeRun({"GM": 100.0})
    assert budget.budget_section(run)["regions"][0]["agrees"]
    run.table["mean"] *= 1.001
    assert not budget.budget_section(run)["regions"][0]["agrees"]


class FakeRun:
    """Regions without anatomy, whose signals are given."""

    def __init__(self, signals):
        terms = {"u_noise": 1.0, "uncertainty": 1.0, "ci_low": 0.0, "ci_high": 9.0}
        self.table = pd.DataFrame([
            {"index": k, "name": name, "pvc": "none", "desc": "apparent", "mean": value / 2,
             **terms} for k, (name, value) in enumerate(signals.items())
        ])  # fmt: skip
        line = {"apparent": 2.0}, {"apparent": 0.0}
        self.dictionary = {
            "Equation": {"Slope": line[0], "Intercept": line[1], "Signal": {"none": signals}},
            "Calibration": {"vials": []},
        }

    def rows(self, pvc, desc):
        return self.table[(self.table.pvc == pvc) & (self.table.desc == desc)]


def test_drawn_regions_have_an_equation_without_relaxation():
    told = budget.budget_section(FakeRun({"box": 100.0}))
    assert told["symbols"] == "C = (S − b) / a"
    (step,) = told["regions"][0]["steps"]
    assert calculated(step["numbers"]) == float(step["result"]) == 50
    assert told["regions"][0]["worth"] == []


def test_many_regions_stand_in_one_table():
    told = budget.budget_section(FakeRun({f"r{k}": 10.0 + k for k in range(14)}))
    assert len(told["regions"]) == 12
    assert [region["name"] for region in told["further"]] == ["r12", "r13"]
    assert told["further"][0]["mean"] == "11.00"


def test_a_region_that_could_not_be_determined_has_no_equation():
    run = FakeRun({"box": 100.0, "lost": np.nan, "none": 0.0})
    told = budget.budget_section(run)
    assert [region["name"] for region in told["regions"]] == ["box", "none"]
    assert all(region["agrees"] for region in told["regions"])


@pytest.mark.parametrize("held", [None, {}, {"Slope": {}}, {"Slope": 3, "Signal": None}])
def test_without_its_numbers_the_section_says_so(held):
    run = FakeRun({"box": 100.0})
    run.dictionary["Equation"] = held
    assert "sidecar of the table" in budget.budget_section(run)["problem"]
