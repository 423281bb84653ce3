"""One subject of many: what is opened does not grow with the dataset, nor do others disturb."""

import sys
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.ages import read_age
from sodiumprep.bids_app.dataset import collect
from sodiumprep.bids_app.index import find_participants
from sodiumprep.bids_app.settings import Settings

SUBJECTS = 300
SIDECAR = """{"ResonantNucleus": "23Na", "EchoTime": 4e-4, "RepetitionTime": 0.12,
"FlipAngle": 90, "MagneticFieldStrength": 3}"""
TOUCHED = ("open", "os.listdir", "os.scandir")
heard = []
listening = []


def listen(event, details):
    if listening and event in TOUCHED and isinstance(details[0], (str, Path)):
        heard.append(str(details[0]))


sys.addaudithook(listen)


@contextmanager
def touched():
    """Collect the files that are opened and the folders that are listed."""
    heard.clear()
    listening.append(True)
    try:
        yield heard
    finally:
        listening.clear()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Make a dataset whose others are dangling links, with ready-made anatomy of all."""
    root = tmp_path_factory.mktemp("many")
    image = nib.Nifti1Image(np.arange(27, dtype=np.float32).reshape(3, 3, 3), np.eye(4))
    for number in range(1, SUBJECTS + 1):
        for place, name in (("raw", "acq-23Na_PDw"), ("ready", "desc-preproc_T1w")):
            anat = root / place / f"sub-{number:03d}" / "anat"
            anat.mkdir(parents=True)
            path = anat / f"sub-{number:03d}_{name}.nii.gz"
            if number == 1:
                nib.save(image, path)
            else:
                path.symlink_to("../../.git/annex/objects/nothing")
            path.with_name(path.name.replace(".nii.gz", ".json")).write_text(SIDECAR)
    (root / "raw/dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
    return root


def asked(root, *labels, **options):
    return Settings(root / "raw", root / "out", root / "work", participants=labels, **options)


def of_others(root, names):
    return [name for name in names if str(root) in name and "sub-" in name
            and "sub-001" not in name]  # fmt: skip


def test_nothing_of_other_subjects_is_opened_or_listed(many):
    settings = asked(many, "001", derivatives={"ready": many / "ready"})
    with touched() as names:
        jobs, failures = collect(settings)
    assert failures == []
    assert [job.subject for job in jobs] == ["001"]
    assert of_others(many, names) == []
    assert any("sub-001" in name for name in names)


def test_a_derivatives_folder_is_listed_once_for_all_subjects(many):
    settings = asked(many, "001", "002", "003", derivatives={"ready": many / "ready"})
    with touched() as names:
        collect(settings)
    assert names.count(str(many / "ready")) <= 2  # is there a subject; and whose are its files


def test_the_table_of_participants_is_read_once_until_it_changes(many):
    table = many / "raw" / "participants.tsv"
    table.write_text("participant_id\tage\nsub-001\t30\nsub-002\t40\nsub-001\t50\n")
    with touched() as names:
        ages = [read_age(many / "raw", f"{number:03d}", None) for number in range(1, SUBJECTS)]
    assert names.count(str(table)) == 1
    assert ages[:3] == [30, 40, None]
    table.write_text("participant_id\tage\nsub-001\t31\n")
    assert read_age(many / "raw", "001", None) == 31
    table.unlink()


def test_a_dangling_link_is_a_failure_of_its_subject_alone(many):
    jobs, failures = collect(asked(many, "001", "002", derivatives={"ready": many / "ready"}))
    assert [job.subject for job in jobs] == ["001"]
    ((label, message),) = failures
    assert label == "002"
    assert "sub-002_acq-23Na_PDw.nii.gz" in message


def test_of_the_asked_subjects_only_the_folders_are_looked_for(many):
    with touched() as names:
        assert find_participants(asked(many, "001")) == ("001",)
    assert names == []
    assert len(find_participants(asked(many))) == SUBJECTS
