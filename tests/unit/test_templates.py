"""Output spaces: names and modifiers, files of templates, and the cohort for an age."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sodiumprep.bids_app import templates
from sodiumprep.bids_app.cli import parse_settings
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.templates import (
    COHORT_AGES,
    EMBEDDED,
    Space,
    check_spaces,
    chosen_space,
    cohort_ages,
    find_template,
    fitting_cohort,
    known_cohorts,
    known_templates,
    read_spaces,
    template_home,
)

FILES = ("T1w", "desc-brain_mask")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Set a folder of templates, empty, and no package that could fetch."""
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "tf"))
    monkeypatch.setitem(sys.modules, "templateflow.api", None)
    return tmp_path / "tf"


def provide(home, template, cohort="", res="_res-01", files=FILES, content=b"image"):
    folder = home / f"tpl-{template}" / (f"cohort-{cohort}" if cohort else "")
    folder.mkdir(parents=True, exist_ok=True)
    middle = f"_cohort-{cohort}" if cohort else ""
    for name in files:
        (folder / f"tpl-{template}{middle}{res}_{name}.nii.gz").write_bytes(content)
    return folder


def describe(home, template, cohorts):
    folder = home / f"tpl-{template}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "template_description.json").write_text(json.dumps({"cohort": cohorts}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T1w", []),
        ("anat", []),
        (EMBEDDED, [Space(EMBEDDED)]),
        ("MNI152NLin2009cAsym:res-2", [Space("MNI152NLin2009cAsym", "", "2")]),
        ("NKI:res-02", [Space("NKI", "", "2")]),
        ("NKI:res-1:res-2", [Space("NKI", "", "1"), Space("NKI", "", "2")]),
        ("MNIInfant:cohort-2", [Space("MNIInfant", "2")]),
        ("MNIInfant:res-2:cohort-02", [Space("MNIInfant", "2", "2")]),
        ("MNIPediatricAsym:cohort-auto", [Space("MNIPediatricAsym", "auto")]),
    ],
)
def test_spaces_are_spelled_as_in_nipreps(text, expected):
    assert list(read_spaces([text])) == expected


def test_a_space_named_twice_counts_once():
    assert read_spaces(["NKI", "NKI", "NKI:res-1"]) == (Space("NKI"), Space("NKI", "", "1"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Foo", "Foo is not known; accepted: T1w, anat, MNI152NLin2009aSym, .*OASIS30ANTs"),
        ("NKI:den-2", "den-2 is no modifier; accepted: res-<number>, cohort-<number>"),
        ("NKI:res-native", "res-native is no modifier"),
        ("NKI:res-auto", "res-auto is no modifier"),
        ("T1w:res-2", "T1w takes no modifier"),
        ("NKI:cohort-1", "NKI has no cohorts"),
        ("MNIInfant", "MNIInfant needs a cohort; accepted: cohort-1, .*cohort-11, cohort-auto"),
        ("MNIInfant:cohort-12", "MNIInfant has no cohort-12; accepted: cohort-1"),
        ("MNIInfant:cohort-1:cohort-2", "MNIInfant has no cohort-1 and cohort-2"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(text, said):
    with pytest.raises(UserError, match=f"--output-spaces {text}: {said}"):
        read_spaces([text])


def test_a_template_of_the_users_own_is_known_by_its_folder(home):
    provide(home, "Ours", cohort="3")
    provide(home, "Stub", content=b"")
    assert "Ours" in known_templates()
    assert "Stub" not in known_templates()
    assert read_spaces(["Ours:cohort-3"]) == (Space("Ours", "3"),)
    with pytest.raises(UserError, match="the ages of the cohorts of Ours are not known"):
        read_spaces(["Ours:cohort-auto"])


def test_a_described_cohort_of_another_template_can_be_chosen_by_age(home):
    provide(home, "Ours", cohort="1")
    describe(home, "Ours", {"1": {"age": [0, 6], "units": "months"}, "2": {"name": "old"}})
    assert known_cohorts("Ours") == ("1", "2")
    assert cohort_ages("Ours") == {"1": (0.0, 0.5)}


def test_the_description_goes_before_the_built_in_ages(home):
    assert cohort_ages("MNIPediatricAsym") == COHORT_AGES["MNIPediatricAsym"]
    describe(home, "MNIPediatricAsym", {"1": {"age": [4, 20], "units": "yr"}})
    assert cohort_ages("MNIPediatricAsym") == {"1": (4.0, 20.0)}


@pytest.mark.parametrize(
    "entry", [None, "old", {"units": "yr"}, {"age": [1], "units": "yr"}, {"age": [1, 2]},
              {"age": ["1", "2"], "units": "yr"}, {"age": [1, 2], "units": "mm"}],
)  # fmt: skip
def test_a_cohort_without_full_ages_is_never_chosen_by_age(home, entry):
    describe(home, "Ours", {"1": entry, "2": {"age": [3, 4], "units": "years"}})
    assert cohort_ages("Ours") == {"2": (3, 4)}
    assert known_cohorts("Ours") == ("1", "2")


@pytest.mark.parametrize("cohort", range(1, 12))
def test_the_middle_of_every_infant_cohort_is_its_own(cohort):
    ages = COHORT_AGES["MNIInfant"]
    low, high = ages[str(cohort)]
    assert fitting_cohort((low + high) / 2, ages) == str(cohort)


@pytest.mark.parametrize(
    ("age", "cohort"),
    [(4.5, "2"), (6.5, "2"), (9, "3"), (10.5, "4"), (11.5, "1"), (12.1, "5"), (18.5, "6"),
     (4.4, ""), (18.6, "")],
)  # fmt: skip
def test_of_overlapping_cohorts_the_one_of_the_nearest_middle_is_taken(age, cohort):
    assert fitting_cohort(age, COHORT_AGES["MNIPediatricAsym"]) == cohort


def test_of_two_equally_near_cohorts_the_narrower_is_taken():
    assert fitting_cohort(5, {"wide": (0, 10), "narrow": (4, 6)}) == "narrow"


def raw_with_age(tmp_path, age):
    (tmp_path / "raw").mkdir(exist_ok=True)
    (tmp_path / "raw/participants.tsv").write_text(f"participant_id\tage\nsub-01\t{age}\n")
    return tmp_path / "raw"


def test_auto_becomes_the_cohort_of_the_subjects_age(tmp_path):
    space = Space("MNIPediatricAsym", "auto", "2")
    chosen = chosen_space(space, raw_with_age(tmp_path, 9.2), "01", None)
    assert chosen == Space("MNIPediatricAsym", "3", "2")
    assert chosen_space(Space("NKI"), tmp_path, "01", None) == Space("NKI")


def test_an_age_in_no_cohort_is_refused_by_file_and_subject(tmp_path):
    raw = raw_with_age(tmp_path, 30)
    with pytest.raises(UserError, match="participants.tsv: age of sub-01 is 30 years; .* 4.5 to"):
        chosen_space(Space("MNIPediatricAsym", "auto"), raw, "01", None)


def test_the_embedded_template_needs_no_file():
    assert find_template(Space(EMBEDDED, "", "3")).grid == ""
    with pytest.raises(UserError, match="accepted for the embedded template: res-1, .*res-5"):
        find_template(Space(EMBEDDED, "", "6"))


@pytest.mark.parametrize("res", ["_res-01", "_res-1", ""])
@pytest.mark.parametrize("cohort", ["", "4"])
def test_a_template_is_found_however_its_resolution_is_spelled(home, res, cohort):
    folder = provide(home, "Ours", cohort, res)
    provide(home, "Ours", cohort, "_res-02", ("T1w", "desc-brain_T1w"))
    middle = f"_cohort-{cohort}" if cohort else ""
    found = find_template(Space("Ours", cohort))
    assert found.image == found.grid == str(folder / f"tpl-Ours{middle}{res}_T1w.nii.gz")
    assert found.mask == str(folder / f"tpl-Ours{middle}{res}_desc-brain_mask.nii.gz")


def test_maps_take_the_grid_that_is_asked_for_and_the_registration_the_first(home):
    provide(home, "Ours")
    folder = provide(home, "Ours", res="_res-02", files=("T1w",))
    found = find_template(Space("Ours", "", "2"))
    assert found.grid == str(folder / "tpl-Ours_res-02_T1w.nii.gz")
    assert found.image == str(folder / "tpl-Ours_res-01_T1w.nii.gz")


@pytest.mark.parametrize("content", [None, b""])
def test_a_missing_template_is_named_with_its_path_and_how_to_provide_it(home, content):
    if content is not None:
        provide(home, "MNIInfant", "2", "_res-1", content=content)
    with pytest.raises(UserError) as raised:
        check_spaces([Space("MNIInfant", "2")])
    text = str(raised.value)
    assert "\n" not in text
    path = home / "tpl-MNIInfant/cohort-2/tpl-MNIInfant_cohort-2_res-01_T1w.nii.gz"
    assert f"{path} is not there (and the package templateflow" in text
    assert "python -c \"from templateflow.api import get; get('MNIInfant', resolution=1" in text
    assert "TEMPLATEFLOW_HOME" in text
    assert "cohort='2'" in text


def test_a_missing_mask_is_named_as_well(home):
    provide(home, "NKI", files=("T1w",))
    with pytest.raises(UserError, match="tpl-NKI_res-01_desc-brain_mask.nii.gz is not there"):
        check_spaces([Space("NKI")])


def test_a_cohort_that_depends_on_the_age_is_checked_with_its_subject():
    check_spaces([Space("MNIInfant", "auto")])


def with_client(monkeypatch, get):
    calls = []

    def recorded(template, **query):
        calls.append((template, query))
        return get(template, **query)

    conf = SimpleNamespace(update=lambda **_: True)
    monkeypatch.setitem(sys.modules, "templateflow.api", SimpleNamespace(get=recorded))
    monkeypatch.setitem(sys.modules, "templateflow.conf", conf)
    return calls


def test_templateflow_fetches_what_is_missing_and_nothing_else(home, monkeypatch):
    provide(home, "NKI", files=("T1w",))
    calls = with_client(monkeypatch, lambda *_, **__: provide(home, "NKI"))
    assert find_template(Space("NKI")).mask.endswith("desc-brain_mask.nii.gz")
    assert [query["suffix"] for _, query in calls] == ["mask"]
    find_template(Space("NKI"))
    assert len(calls) == 1


def test_a_template_without_resolutions_is_asked_for_without(home, monkeypatch):
    calls = with_client(
        monkeypatch,
        lambda *_, resolution, **__: [] if resolution else provide(home, "MNI305", res=""),
    )
    assert find_template(Space("MNI305")).image.endswith("tpl-MNI305_T1w.nii.gz")
    assert [query["resolution"] for _, query in calls] == [1, None]


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError, ValueError])
def test_a_failed_download_is_one_line(monkeypatch, error):
    def fail(*_, **__):
        raise error("no\nnetwork")

    with_client(monkeypatch, fail)
    with pytest.raises(UserError, match=f"could not be fetched: {error.__name__}"):
        check_spaces([Space("NKI")])


def test_what_templateflow_does_not_have_is_said(monkeypatch):
    with_client(monkeypatch, lambda *_, **__: [])
    with pytest.raises(UserError, match="TemplateFlow has no such file"):
        check_spaces([Space("NKI", "", "7")])


@pytest.mark.parametrize("cache", [None, "/cache"])
def test_templates_lie_in_the_cache_unless_told_otherwise(monkeypatch, cache):
    monkeypatch.delenv("TEMPLATEFLOW_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert template_home() == Path(cache or Path.home() / ".cache") / "templateflow"


def test_the_option_reaches_the_settings(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    command = [str(raw), str(tmp_path / "out"), "participant"]
    given = parse_settings([*command, "--output-spaces", "T1w", "NKI:res-2", EMBEDDED])
    assert given.output_spaces == (Space("NKI", "", "2"), Space(EMBEDDED))
    assert parse_settings(command).output_spaces == ()


def test_names_and_labels_tell_cohort_and_resolution():
    space = Space("MNIInfant", "2", "1")
    assert (str(space), space.label) == ("MNIInfant:cohort-2:res-1", "MNIInfant+2")
    assert templates.AUTO == "auto"
