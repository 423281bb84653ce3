"""What is found in derivatives folders of every flavour, on tiny trees."""

import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app import io_spec
from sodiumprep.bids_app.index import RawFile
from sodiumprep.bids_app.lesions import Lesions, find_lesions
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.ready import (
    Ready,
    find_sodium_regions,
    find_transform,
    labels_of,
    read_label_names,
    ready_anatomy,
    ready_files,
    ready_sources,
)

SOURCE = RawFile(Path("/raw/sub-01/anat/sub-01_acq-23Na_PDw.nii.gz"), {}, {})
ASEG = [0, 2, 3, 4, 41, 42, 43, 16]
LINEAR = "#Insight Transform File V1.0\nTransform: Euler3DTransform_double_3_3\n"


class Tree:
    """A derivatives folder under construction."""

    def __init__(self, root):
        self.root = root

    def image(self, name, values=(0, 1)):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.resize(np.asarray(values), (4, 4, 4))
        kind = nib.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
        nib.save(kind(voxels.astype(np.float32), np.eye(4)), path)
        return path

    def text(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def table(self, name, **rows):
        lines = [f"{label[1:]}\t{region}" for label, region in rows.items()]
        return self.text(name, "\n".join(["index\tname", *lines]))

    def ready(self, session=None):
        return Ready(tuple(ready_files({"d": self.root}, "01", session)))

    def anatomy(self, session=None):
        return ready_anatomy(self.ready(session))


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "d")


@pytest.fixture
def fmriprep(tree):
    names = ["desc-preproc_T1w", "desc-brain_mask", "dseg", "desc-aseg_dseg"]
    names += [f"label-{tissue}_probseg" for tissue in ("GM", "WM", "CSF")]
    others = [f"space-MNI152NLin2009cAsym_{name}" for name in names]
    for name in [*names, *others, "hemi-L_label-cortex_desc-ribbon_mask"]:
        tree.image(f"sub-01/anat/sub-01_{name}.nii.gz", ASEG)
    for one, other in (("T1w", "MNI152NLin2009cAsym"), ("MNI152NLin2009cAsym", "T1w"),
                       ("T1w", "fsnative")):  # fmt: skip
        tree.text(f"sub-01/anat/sub-01_from-{one}_to-{other}_mode-image_xfm.h5", "")
    return tree


@pytest.fixture
def freesurfer(tree):
    for name in ("T1", "brainmask", "aseg", "aparc+aseg", "orig"):
        tree.image(f"sub-01/mri/{name}.mgz", ASEG)
    return tree


def test_an_fmriprep_folder_is_complete(fmriprep):
    found = fmriprep.anatomy()
    assert sorted(found.files) == [
        "CSF", "GM", "WM", "from_MNI152NLin2009cAsym", "mask", "preproc",
        "to_MNI152NLin2009cAsym",
    ]  # fmt: skip
    assert all("space-" not in path.name for path in found.files.values())
    assert (found.label_tissues, found.notes) == ({}, ())


def test_no_lesion_is_seen_in_an_fmriprep_folder(fmriprep):
    assert find_lesions(None, [], fmriprep.ready(), True) == Lesions()


def test_a_freesurfer_folder_is_complete(freesurfer):
    found = freesurfer.anatomy()
    assert {item: path.name for item, path in found.files.items()} == {
        "preproc": "T1.mgz", "mask": "brainmask.mgz", "dseg": "aparc+aseg.mgz",
    }  # fmt: skip
    assert found.label_tissues == {2: "WM", 3: "GM", 4: "CSF", 41: "WM", 42: "GM", 43: "CSF",
                                   16: "WM"}  # fmt: skip
    assert any("no fluid in the sulci" in note for note in found.notes)


@pytest.mark.parametrize("folder", ["sub-01_ses-1", "sub-01_ses-1.long.sub-01", "sub-01"])
def test_freesurfer_names_of_sessions_are_found(tree, folder):
    path = tree.image(f"{folder}/mri/aseg.mgz", ASEG)
    tree.image("sub-01_ses-2/mri/aseg.mgz", ASEG)
    assert tree.anatomy("1").files["dseg"] == path


@pytest.mark.parametrize(
    "name",
    ["sub-01_T1w_synthseg.nii.gz", "sub-01/anat/sub-01_T1w_synthseg.nii.gz",
     "sub-01/sub-01_dseg.nii.gz", "sub-01/anat/sub-01_desc-synthseg_dseg.nii.gz"],
)  # fmt: skip
def test_a_synthseg_image_gives_fractions_by_its_numbers(tree, name):
    path = tree.image(name, [*ASEG, 24])
    found = tree.anatomy()
    assert found.files == {"dseg": path}
    assert found.label_tissues[24] == "CSF"
    assert any("hard" in note for note in found.notes)


def test_posteriors_beside_their_labels_are_found(tree):
    tree.image("sub-01_T1w_synthseg.nii.gz", ASEG)
    path = tree.image("sub-01_T1w_posteriors.nii.gz")
    found = tree.anatomy()
    assert found.files["posteriors"] == path
    assert found.notes == ()


def test_a_flat_folder_gives_each_subject_its_own(tree):
    tree.image("sub-02_T1w_synthseg.nii.gz", ASEG)
    assert tree.anatomy().files == {}


@pytest.mark.parametrize("table", ["sub-01/anat/sub-01_dseg.tsv", "dseg.tsv"])
def test_a_labelled_image_with_its_table_gives_fractions(tree, table):
    path = tree.image("sub-01/anat/sub-01_dseg.nii.gz", [0, 1, 2, 3, 4])
    where = tree.table(table, _1="CSF", _2="gray matter", _3="WM", _4="Bone")
    found = tree.anatomy()
    assert found.files == {"dseg": path, "dseg_tsv": where}
    assert found.label_tissues == {1: "CSF", 2: "GM", 3: "WM", 4: ""}


def test_numbers_that_may_mean_anything_are_not_used_and_this_is_said(tree):
    tree.image("sub-01/anat/sub-01_dseg.nii.gz", [0, 1, 2, 3])
    found = tree.anatomy()
    assert found.files == {}
    assert found.notes == ("sub-01_dseg.nii.gz: not used, no TSV tells what its labels are",)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"_1": "GM", "_2": "WM", "_3": "blob"}, "label 3 .* is called 'blob'; accepted"),
        ({"_1": "GM", "_2": "WM"}, "label 3 .* has no row"),
        ({"_1": "GM", "_2": "WM", "_3": "WM"}, "no label is CSF"),
    ],
)
def test_a_table_that_names_no_tissues_is_refused(tree, names, said):
    tree.image("sub-01/anat/sub-01_dseg.nii.gz", [0, 1, 2, 3])
    tree.table("dseg.tsv", **names)
    with pytest.raises(UserError, match=said):
        tree.anatomy()


def test_a_number_that_freesurfer_does_not_know_is_refused(tree):
    tree.image("sub-01_T1w_synthseg.nii.gz", [*ASEG, 999])
    with pytest.raises(UserError, match="label 999 is none of FreeSurfer's"):
        tree.anatomy()


def test_labels_are_whole_numbers(tree):
    with pytest.raises(UserError, match=r"holds 0\.5; labels are whole"):
        labels_of(tree.image("sub-01_dseg.nii.gz", [0, 0.5, 1]))


@pytest.mark.parametrize("content", ["index,name\n1,GM\n", "index\tname\none\tGM\n"])
def test_a_table_of_another_form_is_refused(tree, content):
    with pytest.raises(UserError, match="tab-separated columns index and name"):
        read_label_names(tree.text("dseg.tsv", content))


def test_a_mask_alone_is_taken_alone(tree):
    path = tree.image("sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    assert tree.anatomy().files == {"mask": path}


def test_the_first_folder_wins_whatever_its_flavour(fmriprep, tmp_path):
    other = Tree(tmp_path / "fs")
    path = other.image("sub-01/mri/brainmask.mgz")
    both = {"fs": other.root, "fmriprep": fmriprep.root}
    found = ready_anatomy(Ready(tuple(ready_files(both, "01", None))))
    assert found.files["mask"] == path
    assert ready_sources(found.files, both)[1] == "from fs: mask"


def test_an_empty_lesion_mask_is_left_out_with_a_word(tree):
    tree.image("sub-01/anat/sub-01_label-core_mask.nii.gz", [0])
    path = tree.image("sub-01/anat/sub-01_label-edema_mask.nii.gz")
    lesions = find_lesions(None, [], tree.ready(), True)
    assert lesions.masks == {"edema": path}
    assert lesions.notes == (
        "sub-01_label-core_mask.nii.gz: empty, there is no lesion of class core",
    )


def test_a_mask_of_sodium_is_no_lesion_of_the_anatomy(tree):
    tree.image("sub-01/anat/sub-01_acq-23Na_desc-pons_mask.nii.gz")
    assert find_lesions(None, [], tree.ready(), True).masks == {}


def test_regions_in_sodium_space_have_names(tree):
    drawn = tree.image("sub-01/anat/sub-01_acq-23Na_desc-pons_mask.nii.gz")
    labels = tree.image("sub-01/anat/sub-01_acq-23Na_desc-roi_dseg.nii.gz", [0, 1, 2])
    tree.table("desc-roi_dseg.tsv", _1="cyst", _2="rim")
    tree.image("sub-01/anat/sub-01_acq-23Na_space-T1w_desc-far_mask.nii.gz")
    regions = find_sodium_regions(SOURCE, tree.ready())
    assert regions == {"pons": (drawn, 1), "cyst": (labels, 1), "rim": (labels, 2)}


def test_regions_in_sodium_space_need_a_table(tree):
    tree.image("sub-01/anat/sub-01_acq-23Na_desc-roi_dseg.nii.gz", [0, 1, 2])
    with pytest.raises(UserError, match="no TSV with columns index and name"):
        find_sodium_regions(SOURCE, tree.ready())


def test_a_label_of_a_region_must_stand_in_the_table(tree):
    tree.image("sub-01/anat/sub-01_acq-23Na_desc-roi_dseg.nii.gz", [0, 1, 2])
    tree.table("desc-roi_dseg.tsv", _1="cyst")
    with pytest.raises(UserError, match="label 2 does not stand in"):
        find_sodium_regions(SOURCE, tree.ready())


def transform(tree, ends, content=LINEAR, extension=".txt"):
    return tree.text(f"sub-01/anat/sub-01_{ends}_mode-image_xfm{extension}", content)


def test_a_transform_that_points_the_other_way_is_known_as_such(tree):
    path = transform(tree, "from-T1w_to-sodium")
    assert find_transform(SOURCE, tree.ready()) == (path, True)


def test_the_transform_that_points_our_way_comes_first(tree):
    transform(tree, "from-T1w_to-sodium")
    path = transform(tree, "from-sodium_to-T1w")
    assert find_transform(SOURCE, tree.ready()) == (path, False)


@pytest.mark.parametrize("content", ["nothing", "#Insight Transform File V1.0\n"])
def test_a_text_without_transform_is_refused(tree, content):
    transform(tree, "from-sodium_to-T1w", content)
    with pytest.raises(UserError, match="not an ITK transform"):
        find_transform(SOURCE, tree.ready())


def test_a_nonlinear_transform_is_refused(tree):
    path = transform(tree, "from-sodium_to-T1w", extension=".h5")
    path.unlink()
    kinds = (b"CompositeTransform_double_3_3", b"DisplacementFieldTransform_double_3_3")
    with h5py.File(path, "w") as file:
        for number, kind in enumerate(kinds):
            file[f"TransformGroup/{number}/TransformType"] = [kind]
    with pytest.raises(UserError, match="is not linear.*accepted.*rigid or affine"):
        find_transform(SOURCE, tree.ready())


def test_every_rule_of_the_file_is_read():
    items = json.loads(io_spec.SPEC.read_text())["items"]
    for item, held in items.items():
        assert len(io_spec.rules(item)) == len(held["rules"])
    assert {rule.labels for rule in io_spec.rules("dseg")} == {"table", "freesurfer"}


def test_values_that_come_first_in_the_file_are_preferred(tree):
    for ending in ("T2w", "UNIT1", "T1w"):
        tree.image(f"sub-01/anat/sub-01_desc-preproc_{ending}.nii.gz")
    names = [path.name for path in tree.ready().find("preproc")]
    assert [name.split("_")[-1] for name in names] == ["T1w.nii.gz", "UNIT1.nii.gz", "T2w.nii.gz"]
