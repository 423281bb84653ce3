"""Results of a cohort without images are those that the group level reads."""

import json

import pandas as pd
import pytest

from sodiumprep.bids_app.group.run import run_group
from sodiumprep.bids_app.phantom import main
from sodiumprep.bids_app.settings import Settings


def written(out_dir, *options):
    assert main([str(out_dir), "--tables", "24", "--seed", "3", *options]) == 0
    return out_dir


def read(path):
    return pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False, dtype={"run": str})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = written(tmp_path_factory.mktemp("results") / "out", "--sessions", "2", "--regions", "2")
    assert run_group(Settings(out, out, out, level="group")) == 0
    return out


def test_the_group_level_finds_everybody(results):
    table = read(results / "group_TSC.tsv")
    assert table.participant_id.nunique() == 24
    assert set(table.seg) == {"tissue", "parcels"}
    assert set(table.pvc) == {"none", "gtm", "labbe", "rbv"}
    assert set(table.desc) == {"apparent", "corrected"}
    assert set(read(results / "group_qc.tsv").participant_id) == set(table.participant_id)
    missing = read(results / "group/missing.tsv")
    assert set(missing.reason) <= {"every value is flagged: registration_failed"}


def test_values_lie_about_the_truth_by_their_uncertainty(results):
    table, truth = read(results / "group_TSC.tsv"), read(results / "truth/true_TSC.tsv")
    own = table[(table.pvc == "gtm") & (table.desc == "corrected") & table.flag.isna()]
    both = own.merge(truth, on=["participant_id", "session", "index", "name"])
    away = (both["mean"] - both["true"]) / both.uncertainty
    assert len(both) > 150
    assert away.std() == pytest.approx(1, abs=0.3)


def test_a_run_whose_registration_failed_is_flagged_everywhere(tmp_path):
    out = written(tmp_path / "out", "--runs", "9")
    paths = sorted(out.glob("sub-*/anat/*_metrics.json"))
    assert len(paths) == 24 * 9
    failed = [p for p in paths if json.loads(p.read_text())["RegistrationFailed"]]
    assert failed
    table = read(failed[0].with_name(failed[0].name.replace("desc-qc_metrics.json",
                                                            "seg-tissue_TSC.tsv")))  # fmt: skip
    assert set(table.flag) == {"registration_failed"}


def test_sessions_tell_the_age(results):
    table = read(results / "sub-00001/sub-00001_sessions.tsv")
    people = read(results / "participants.tsv").set_index("participant_id")
    first = table[table.session_id == "ses-1"].iloc[0]
    assert first.age == pytest.approx(people.loc["sub-00001", "age"])
    assert (table.age - first.age).to_numpy() == pytest.approx(table.time.to_numpy())


def test_every_column_is_described(results):
    for path in [*results.glob("sub-00001/**/*_TSC.tsv"), results / "participants.tsv",
                 results / "truth/true_TSC.tsv"]:  # fmt: skip
        described = json.loads(path.with_suffix(".json").read_text())
        assert set(read(path).columns) - {"participant_id"} <= set(described), path


def test_patients_have_the_difference_that_is_asked(tmp_path):
    out = written(tmp_path / "out", "--regions", "8", "--difference", "9")
    truth = read(out / "truth/true_TSC.tsv").merge(read(out / "participants.tsv"))
    means = truth[truth["index"] >= 100].groupby(["index", "group"])["true"].mean().unstack()
    found = means["ms"] - means["control"]
    assert found[[101, 103, 105, 107]].mean() == pytest.approx(9, abs=2)
    assert found[[100, 102, 104, 106]].mean() == pytest.approx(0, abs=2)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second = (written(tmp_path / name) for name in "ab")
    files = [p.relative_to(first) for p in first.rglob("*") if p.is_file()]
    assert len(files) > 70
    assert all((first / p).read_bytes() == (second / p).read_bytes() for p in files)


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--sessions", "0"], "--sessions must be positive"), (["--regions", "-1"], "0 or more"),
     (["--responders", "2"], "0 to 1"), (["--groups", "a", "a"], "stands there twice"),
     (["--groups", *map(str, range(30))], "at least one participant each")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(tmp_path, capsys, options, said):
    assert main([str(tmp_path / "out"), "--tables", "24", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert main([str(tmp_path), "--tables=24"]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
