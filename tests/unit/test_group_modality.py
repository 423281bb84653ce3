"""Another modality that follows sodium in one region and not in another, as table and as maps."""

import json

import numpy as np
import pandas as pd
import pytest

from sodiumprep.bids_app.group.dictionary import describe
from sodiumprep.bids_app.group.run import run_group
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.concentration import COLUMNS
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.sidecars import write_json

PEOPLE, SHAPE, SLOPE = 30, (12, 12, 12), 0.02
FINE, COARSE = np.diag([1.0, 1, 1, 1]), np.diag([3.0, 3, 3, 1])
COARSE[:3, 3] = 1.0
MEANS = {"GM": 42.0, "WM": 36.0, "CSF": 145.0}


def truth(number, session="1"):
    rng = np.random.default_rng([number, int(session)])
    person = np.random.default_rng(number).normal(0, 4)
    return {name: mean + person + rng.normal(0, 2) for name, mean in MEANS.items()}


def other(number, session="1"):
    """Return what the other modality shows: GM follows sodium, WM does not."""
    true, rng = truth(number, session), np.random.default_rng([9, number, int(session)])
    held = {"GM": 1 + SLOPE * true["GM"], "WM": 2 + rng.normal(0, 0.05), "CSF": 3.0}
    return {name: value + rng.normal(0, 0.01) for name, value in held.items()}


def write_anatomy(names):
    layers = {"GM": slice(0, 3), "WM": slice(3, 9), "CSF": slice(9, 12)}
    for name, place in layers.items():
        fraction = np.zeros(SHAPE, np.float32)
        fraction[place] = 1
        save_image(names.probseg(name), fraction, FINE)
    save_image(names.anat_preproc(), np.ones(SHAPE), FINE)


def write_scan(out_dir, number, session):
    names = DerivativeNames(out_dir, f"{number:02d}", session=session)
    names.folder.mkdir(parents=True)
    noise = np.random.default_rng([1, number, int(session or 1)]).normal(0, 0.5, 3)
    held = truth(number, session or "1")
    rows = [{**dict.fromkeys(COLUMNS, "n/a"), "index": k, "name": name, "pvc": "gtm",
             "desc": "corrected", "mean": f"{true + noise[k - 1]:.4f}", "uncertainty": 0.5}
            for k, (name, true) in enumerate(held.items(), 1)]  # fmt: skip
    pd.DataFrame(rows, columns=COLUMNS).to_csv(names.tsc_table(), sep="\t", index=False)
    write_json(names.qc(), {"SoftwareVersion": "1"})
    write_anatomy(names)


def write_cohort(out_dir, sessions=(None,)):
    lines = ["participant_id\tage\tscore\tdied"]
    for number in range(PEOPLE):
        for session in sessions:
            write_scan(out_dir, number, session)
        score = truth(number)["GM"] + np.random.default_rng([5, number]).normal(0, 2)
        lines.append(f"sub-{number:02d}\t{20 + number}\t{score:.3f}\t{int(score > 42)}")
    DatasetNames(out_dir).participants.write_text("\n".join(lines) + "\n")
    return out_dir


def write_table(out_dir, sessions=("1",), u="0.01"):
    rows = [(f"{number:02d}", session, name, f"{value:.5f}", u) for number in range(PEOPLE)
            for session in sessions for name, value in other(number, session).items()]  # fmt: skip
    table = pd.DataFrame(rows, columns=["participant_id", "session", "name", "mean",
                                        "uncertainty"])  # fmt: skip
    if len(sessions) == 1:
        table = table.drop(columns="session")
    table.to_csv(out_dir / "adc.tsv", sep="\t", index=False)


def write_maps(root, values=other):
    for number in range(PEOPLE):
        held = values(number)
        means = np.repeat([held["GM"], held["WM"], held["WM"], held["CSF"]], 1)
        image = means[:, None, None] * np.ones((4, 4, 4))
        folder = root / f"sub-{number:02d}/dwi"
        folder.mkdir(parents=True)
        save_image(folder / f"sub-{number:02d}_space-T1w_ADCmap.nii.gz", image, COARSE)


def run(out_dir, comparison, model=None, **choices):
    asked = {"Name": "ADC", **comparison}
    content = {"Model": {"X": [1, "age"]}, "Comparison": [asked], **(model or {})}
    path = out_dir / "asked.json"
    path.write_text(json.dumps(content))
    settings = Settings(out_dir, out_dir, out_dir, level="group", model_file=path, **choices)
    assert run_group(settings) == 0
    return {name: pd.read_csv(out_dir / "group" / f"{name}.tsv", sep="\t", na_values="n/a",
                              dtype={"session": str, "run": str}, keep_default_na=False)
            for name in ("modality", "modality_points")}  # fmt: skip


def row(tables, name):
    found = tables["modality"].set_index("name")
    return found.loc[name]


@pytest.fixture
def cohort(tmp_path):
    return write_cohort(tmp_path / "out")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = write_cohort(tmp_path_factory.mktemp("cohort") / "out")
    write_table(out)
    return run(out, {"Table": "adc.tsv", "Outcome": "score"})


def test_the_line_with_errors_in_both_has_the_true_slope(results):
    found = row(results, "GM")
    assert found.line_slope_low < SLOPE < found.line_slope_high
    assert found.line_slope == pytest.approx(SLOPE, rel=0.15)
    assert found.r_low < found.r < found.r_high
    assert found.n == PEOPLE


def test_what_errors_took_from_the_correlation_comes_back(results):
    found = row(results, "GM")
    assert found.r < found.r_true <= 1
    assert found.r_partial > 0.9
    assert found.given == "age"


def test_a_region_that_does_not_follow_is_told_so(results):
    found = row(results, "WM")
    assert found.r_low < 0 < found.r_high
    assert found.p > 0.05


def test_sodium_adds_to_a_modality_that_does_not_know_the_outcome(results):
    assert row(results, "WM").p_added < 0.01
    assert row(results, "WM").gain_low > 0
    assert row(results, "GM").gain < row(results, "WM").gain
    assert set(results["modality"].measure.dropna()) == {"R2"}


def test_points_are_written_for_plots(results):
    points = results["modality_points"]
    assert len(points) == 3 * PEOPLE
    assert (points.u_x == 0.5).all()
    assert (points.u_y == 0.01).all()


def test_every_column_is_described(results):
    for name, table in results.items():
        for column in set(table.columns) - {"participant_id"}:
            text = describe(column)["Description"]
            assert text != "As in the tables of the participants", (name, column)


def test_maps_are_sampled_in_the_same_regions(cohort, tmp_path, results):
    write_maps(tmp_path / "dwi")
    asked = {"Maps": "dwi", "Suffix": "ADCmap", "Uncertainty": 0.01}
    tables = run(cohort, asked, derivatives={"dwi": tmp_path / "dwi"})
    points, known = (t["modality_points"].set_index(["name", "participant_id"]).y
                     for t in (tables, results))  # fmt: skip
    assert points.sort_index().to_numpy() == pytest.approx(known.sort_index().to_numpy(), rel=1e-3)
    found = row(tables, "GM")
    assert found.line_slope_low < SLOPE < found.line_slope_high


def test_without_uncertainties_of_the_other_map_there_is_no_line_and_it_is_said(cohort, tmp_path):
    write_maps(tmp_path / "dwi")
    tables = run(cohort, {"Maps": "dwi", "Suffix": "ADCmap"},
                 derivatives={"dwi": tmp_path / "dwi"})  # fmt: skip
    found = row(tables, "GM")
    assert "no value has uncertainties of both maps" in found.notes
    assert found.r > 0.9


def test_a_class_is_explained_by_its_area_under_the_curve(cohort):
    write_table(cohort)
    asked = {"Table": "adc.tsv", "Outcome": "died"}
    found = row(run(cohort, asked, {"Input": {"name": ["WM"]}}), "WM")
    assert found.measure == "AUC"
    assert 0.3 < found.other_alone < found.with_sodium <= 1


def test_repeated_measurements_correlate_within_participants(tmp_path):
    out = write_cohort(tmp_path / "out", sessions=("1", "2"))
    write_table(out, sessions=("1", "2"))
    found = row(run(out, {"Table": "adc.tsv"}), "GM")
    assert found.r_within > 0.8
    assert (found.n, found.n_values) == (PEOPLE, 2 * PEOPLE)


def test_one_value_for_all_sessions_meets_their_mean(tmp_path):
    out = write_cohort(tmp_path / "out", sessions=("1", "2"))
    write_table(out)
    tables = run(out, {"Table": "adc.tsv"})
    assert (row(tables, "GM").n, row(tables, "GM").n_values) == (PEOPLE, PEOPLE)
    points = tables["modality_points"]
    assert points.u_x.to_numpy() == pytest.approx(0.5 / np.sqrt(2), rel=1e-4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"Table": "none.tsv"}, "none.tsv are not there"),
     ({"Maps": "dwj", "Suffix": "ADCmap"}, "did you mean dwi"),
     ({"Maps": "dwi", "Suffix": "CBF"}, r"looked for .*_CBF\.nii\.gz.* sub-00, sub-01"),
     ({"Maps": "dwi"}, "accepted: Table, or Maps with Suffix"),
     ({"Table": "adc.tsv", "Outcome": "scor"}, "did you mean score")],
)  # fmt: skip
def test_what_is_not_there_is_refused_in_words(cohort, tmp_path, asked, said):
    write_maps(tmp_path / "dwi")
    with pytest.raises(UserError, match=said):
        run(cohort, asked, derivatives={"dwi": tmp_path / "dwi"})


@pytest.mark.parametrize(
    ("values", "said"),
    [(np.ones((4, 4, 4, 3)), "4 dimensions"), (np.full((4, 4, 4), np.nan), "holds no value")],
)
def test_a_map_that_is_none_is_named(cohort, tmp_path, values, said):
    write_maps(tmp_path / "dwi")
    save_image(tmp_path / "dwi/sub-07/dwi/sub-07_space-T1w_ADCmap.nii.gz", values, COARSE)
    with pytest.raises(UserError, match=f"sub-07_space-T1w_ADCmap.nii.gz: .*{said}"):
        run(cohort, {"Maps": "dwi", "Suffix": "ADCmap"}, derivatives={"dwi": tmp_path / "dwi"})


def test_two_maps_of_one_session_are_refused_by_their_names(cohort, tmp_path):
    write_maps(tmp_path / "dwi")
    path = tmp_path / "dwi/sub-07/dwi/sub-07_space-T1w_desc-b_ADCmap.nii.gz"
    save_image(path, np.ones((4, 4, 4)), COARSE)
    with pytest.raises(UserError, match="two maps of one session"):
        run(cohort, {"Maps": "dwi", "Suffix": "ADCmap"}, derivatives={"dwi": tmp_path / "dwi"})


def test_a_map_without_a_space_counts_where_it_lies_on_the_anatomy(cohort, tmp_path):
    folder = tmp_path / "dwi/sub-03"
    folder.mkdir(parents=True)
    save_image(folder / "sub-03_ADCmap.nii.gz", np.full(SHAPE, 2.0), FINE)
    tables = run(cohort, {"Maps": "dwi", "Suffix": "ADCmap"},
                 derivatives={"dwi": tmp_path / "dwi"})  # fmt: skip
    assert set(tables["modality_points"].y) == {2.0}
    assert "29 sessions without a map, the first sub-00" in row(tables, "GM").notes


@pytest.mark.parametrize(
    ("line", "said"),
    [("01\tGM\t1\n01\tGM\t2", "sub-01 n/a n/a GM stands there twice"),
     ("01\tGM\tmuch", "mean is 'much'"), ("01\tGM\tn/a", "mean holds no number")],
)  # fmt: skip
def test_an_unusable_table_is_refused(cohort, line, said):
    (cohort / "adc.tsv").write_text(f"participant_id\tname\tmean\n{line}\n")
    with pytest.raises(UserError, match=said):
        run(cohort, {"Table": "adc.tsv"})


def write_atlas(out_dir):
    """Give everybody an atlas of two halves along z; the sodium of the first is that of GM."""
    labels = np.ones(SHAPE, int)
    labels[:, :, 6:] = 2
    for number in range(PEOPLE):
        names = DerivativeNames(out_dir, f"{number:02d}")
        save_image(names.atlas_labels("halves"), labels, FINE)
        known = {**dict.fromkeys(COLUMNS, "n/a"), "pvc": "gtm", "desc": "corrected"}
        known |= {"tissue": "GM", "mean": f"{truth(number)['GM']:.4f}"}
        rows = [{**known, "index": 1, "name": "low GM"}, {**known, "index": 2, "name": "high GM"}]
        table = pd.DataFrame(rows)
        table.to_csv(names.tsc_table("halves"), sep="\t", index=False)


def test_regions_of_an_atlas_are_sampled_by_their_tissue(cohort, tmp_path):
    write_atlas(cohort)
    write_maps(tmp_path / "dwi")
    for path in (tmp_path / "dwi").rglob("*_ADCmap.nii.gz"):
        values, affine = load_image(path)
        values[:, :, 2:] = 5.0  # the upper half follows nothing
        save_image(path, values, affine)
    asked = {"Maps": "dwi", "Suffix": "ADCmap", "Uncertainty": 0.01}
    tables = run(cohort, asked, derivatives={"dwi": tmp_path / "dwi"})
    assert row(tables, "low GM").r > 0.98
    assert row(tables, "low GM").seg == "halves"
    assert "all values of the second map are the same: 5" in row(tables, "high GM").notes
