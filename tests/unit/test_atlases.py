"""Atlases: found by name or file, labels and table in agreement, planned for both levels."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.atlases import (
    check_atlases,
    plan_labels,
    plan_tables,
    read_atlases,
)
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DerivativeNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.spaces import plan_templates
from sodiumprep.bids_app.templates import EMBEDDED, Space
from sodiumprep.sodium.lobes import LOBES

RAW, OUT = Path("/data/raw"), Path("/data/out")
JOB = SubjectJob("01", None, Anatomy(RAW / "sub-01/anat/sub-01_T1w.nii.gz", "T1w"), ())
NAME = f"atlas-Own_space-{EMBEDDED}_dseg"


def settings(*atlases, **choices):
    return Settings(RAW, OUT, Path("/data/work"), atlases=tuple(map(str, atlases)), **choices)


def write_labels(path, labels=(0, 1, 2), dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((4, 4, 4), dtype)
    values.ravel()[: len(labels)] = labels
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return path


def write_table(path, *rows, columns="index\tname"):
    path.write_text("\n".join([columns, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def own(tmp_path):
    path = write_labels(tmp_path / f"{NAME}.nii.gz")
    write_table(tmp_path / f"{NAME}.tsv", (1, "left thing"), (2, "Left-Putamen"))
    return path


def test_a_built_in_atlas_needs_nothing():
    (atlas,) = read_atlases(settings("lobes"))
    assert atlas.names == LOBES
    assert atlas.space == Space(EMBEDDED)
    assert {atlas.names[label]: tissue for label, tissue in atlas.tissues.items()} == {
        **{f"{side} {part}": "GM" for side in ("left", "right")
           for part in ("thalamus", "caudate", "putamen", "pallidum")},
        "brainstem": "WM",
    }  # fmt: skip


def test_a_file_says_its_space_in_its_name_and_its_labels_in_a_table(own):
    (atlas,) = read_atlases(settings(own))
    assert (atlas.name, atlas.space, atlas.path) == ("Own", Space(EMBEDDED), own)
    assert atlas.names == {1: "left thing", 2: "Left-Putamen"}
    assert atlas.tissues == {2: "GM"}


def test_labels_of_one_name_are_told_apart_and_keep_their_tissue(own):
    write_table(own.with_name(f"{NAME}.tsv"), (1, "Left-Putamen"), (2, "Left-Putamen"))
    (atlas,) = read_atlases(settings(own))
    assert atlas.names == {1: "Left-Putamen 1", 2: "Left-Putamen 2"}
    assert atlas.tissues == {1: "GM", 2: "GM"}


def test_a_label_called_as_a_part_of_another_one_is_told_apart(own):
    write_table(own.with_name(f"{NAME}.tsv"), (1, "front"), (2, "front WM"))
    assert read_atlases(settings(own))[0].names == {1: "front 1", 2: "front WM 2"}


def test_labels_of_one_tissue_have_no_part_that_another_one_could_be_called_as(own):
    rows = ((1, "front", "GM"), (2, "front WM", "WM"))
    write_table(own.with_name(f"{NAME}.tsv"), *rows, columns="index\tname\ttissue")
    assert read_atlases(settings(own))[0].names == {1: "front", 2: "front WM"}


def test_a_column_says_the_tissue_where_the_name_does_not(own):
    rows = ((1, "thing", "WM"), (2, "Left-Putamen", "n/a"))
    write_table(own.with_name(f"{NAME}.tsv"), *rows, columns="index\tname\ttissue")
    assert read_atlases(settings(own.parent))[0].tissues == {1: "WM", 2: "GM"}
    write_table(own.with_name(f"{NAME}.tsv"), (1, "a", "fat"), (2, "b", ""),
                columns="index\tname\ttissue")  # fmt: skip
    own.rename(own.with_name(f"x_{own.name}"))
    own.with_name(f"{NAME}.tsv").rename(own.with_name(f"x_{NAME}.tsv"))
    with pytest.raises(UserError, match="tissue 'fat' of label 1; accepted: GM, WM, CSF"):
        read_atlases(settings(own.with_name(f"x_{own.name}")))


def test_images_of_all_spaces_may_share_a_table(tmp_path):
    image = write_labels(tmp_path / f"atlas-Own/atlas-Own_space-{EMBEDDED}_res-01_dseg.nii.gz")
    write_table(image.with_name("atlas-Own_dseg.tsv"), (1, "a"), (2, "b"))
    assert read_atlases(settings(image))[0].names == {1: "a", 2: "b"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(1, "a")], "holds label 2, which does not stand in"),
        ([(1, "a"), (2, "b"), (3, "c"), (4, "d")], r"lists label 3, .* \(and 1 more\)"),
        ([(2, "a"), (3, "b")], "holds label 1"),
    ],
)
def test_labels_and_table_that_disagree_are_refused(own, rows, said):
    write_table(own.with_name(f"{NAME}.tsv"), *rows)
    with pytest.raises(UserError, match=said):
        read_atlases(settings(own))


def test_background_may_stand_in_the_table(own):
    write_table(own.with_name(f"{NAME}.tsv"), (0, "Background"), (1, "a"), (2, "b"))
    assert 0 not in read_atlases(settings(own))[0].names


def test_labels_that_are_not_whole_are_refused(tmp_path):
    path = write_labels(tmp_path / f"{NAME}.nii.gz", (0, 1, 1.5), np.float32)
    write_table(tmp_path / f"{NAME}.tsv", (1, "a"))
    with pytest.raises(UserError, match=r"holds 1\.5; labels are whole"):
        read_atlases(settings(path))


def test_an_image_that_does_not_say_its_space_is_refused(tmp_path):
    for name in ("labels_dseg.nii.gz", "atlas-X_space-T1w_dseg.nii.gz"):
        path = write_labels(tmp_path / name)
        with pytest.raises(UserError, match="does not say in which template's space it lies"):
            read_atlases(settings(path))
    path = write_labels(tmp_path / "atlas-X_space-MNI999_dseg.nii.gz")
    with pytest.raises(UserError, match="the template MNI999 is not known; accepted: "):
        read_atlases(settings(path))


def test_a_missing_table_and_a_missing_file_are_named(tmp_path):
    path = write_labels(tmp_path / f"{NAME}.nii.gz")
    with pytest.raises(UserError, match=rf"no TSV .* {NAME}\.tsv beside it"):
        read_atlases(settings(path))
    with pytest.raises(UserError, match="there is no such file"):
        read_atlases(settings(tmp_path / "nothing.nii.gz"))


def test_an_unknown_name_lists_what_is_known():
    with pytest.raises(UserError, match=r"Harvard: is not known; accepted: a built-in one \(lobe"):
        read_atlases(settings("Harvard"))


def test_two_atlases_of_one_name_are_refused(own, tmp_path):
    other = write_labels(tmp_path / f"more/{NAME}.nii.gz")
    write_table(other.with_name(f"{NAME}.tsv"), (1, "a"), (2, "b"))
    with pytest.raises(UserError, match="more than one would be called seg-Own"):
        read_atlases(settings(own, other))


@pytest.mark.parametrize("name", ["tissue", "lesions", "shells", "contralateral"])
def test_an_atlas_called_as_a_table_of_every_run_is_refused(tmp_path, name):
    path = write_labels(tmp_path / f"atlas-{name}_space-{EMBEDDED}_dseg.nii.gz")
    write_table(tmp_path / f"atlas-{name}_space-{EMBEDDED}_dseg.tsv", (1, "a"), (2, "b"))
    with pytest.raises(UserError, match=f"would be called seg-{name}"):
        read_atlases(settings(path))


def test_an_atlas_of_templateflow_is_found_by_name_and_description(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    folder = tmp_path / "tpl-MNI152NLin2009cAsym"
    for desc in ("100Parcels", "200Parcels"):
        middle = f"tpl-MNI152NLin2009cAsym_res-0{{}}_atlas-Sch_desc-{desc}_dseg"
        for res in (1, 2):
            write_labels(folder / f"{middle.format(res)}.nii.gz")
        shared = f"tpl-MNI152NLin2009cAsym_atlas-Sch_desc-{desc}_dseg.tsv"
        write_table(folder / shared, (1, "a"), (2, "b"))
    (atlas,) = read_atlases(settings("Sch:desc-200Parcels"))
    assert (atlas.name, atlas.space) == ("Sch200Parcels", Space("MNI152NLin2009cAsym"))
    assert atlas.path.name.startswith("tpl-MNI152NLin2009cAsym_res-01")
    with pytest.raises(UserError, match="accepted: Sch:desc-100Parcels, Sch:desc-200Parcels"):
        read_atlases(settings("Sch"))
    with pytest.raises(UserError, match="tpl-MNI152NLin2009cAsym_res-01_T1w.nii.gz is not there"):
        check_atlases(settings("Sch:desc-200Parcels"))


@pytest.fixture
def freesurfer(tmp_path):
    anat = tmp_path / "fmriprep/sub-01/anat"
    write_labels(anat / "sub-01_desc-aparcaseg_dseg.nii.gz", (0, 10, 1035))
    return {"derivatives": {"fmriprep": tmp_path / "fmriprep"}}


def planned(chosen):
    provenance = {"Sources": ["bids:raw:a"]}
    links = {"": OUT, "raw": RAW, **chosen.derivatives}
    names = DerivativeNames(OUT, "01", run="2")
    return plan_labels(JOB, chosen, provenance, links), plan_tables(JOB, chosen, names, links)


def test_a_segmentation_of_the_subjects_has_the_names_of_its_numbers(freesurfer):
    (labels,), (table,) = planned(settings("aparcaseg", **freesurfer))
    assert labels.names == {10: "Left-Thalamus", 1035: "ctx-lh-insula"}
    assert labels.tissues == {10: "GM", 1035: "GM"}
    assert labels.template == ""
    assert labels.provenance["Sources"][0].endswith("sub-01_desc-aparcaseg_dseg.nii.gz")
    assert Path(labels.outputs["labels"]).name == "sub-01_seg-aparcaseg_dseg.nii.gz"
    name = "sub-01_acq-23Na_run-2_seg-aparcaseg_TSC.tsv"
    assert Path(table.outputs["table_file"]).name == name
    assert table.least_coverage == 0.5


def test_a_table_of_the_dataset_may_list_more_than_a_subject_has(freesurfer):
    root = freesurfer["derivatives"]["fmriprep"]
    table = root / "desc-aparcaseg_dseg.tsv"
    write_table(table, (0, "Unknown"), (10, "thal"), (1035, "ins"), (2035, "other"))
    (labels,), _ = planned(settings("aparcaseg", **freesurfer))
    assert labels.names == {10: "thal", 1035: "ins"}
    write_table(table, (10, "thal"))
    with pytest.raises(UserError, match="label 1035 does not stand in"):
        planned(settings("aparcaseg", **freesurfer))


def test_a_subject_without_such_a_segmentation_is_named(freesurfer):
    job = replace(JOB, subject="02")
    with pytest.raises(UserError, match="sub-02 has no such segmentation"):
        plan_labels(job, settings("aparcaseg", **freesurfer), {"Sources": []}, {})


def test_the_anatomy_is_normalized_to_the_templates_of_atlases(own):
    plans = plan_templates(JOB, settings("lobes", own), {"Sources": []})
    assert [plan.name for plan in plans] == [EMBEDDED]


def test_a_ready_made_transform_without_the_one_back_is_refused():
    ready = {f"to_{EMBEDDED}": Path("/d/sub-01_from-T1w_to-X_mode-image_xfm.h5")}
    job = replace(JOB, anatomy=replace(JOB.anatomy, ready=ready))
    with pytest.raises(UserError, match="the transform back is missing"):
        plan_labels(job, settings("lobes"), {"Sources": []}, {})
