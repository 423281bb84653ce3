"""Labels of atlases on the anatomy: in the space that they are said to lie in, or not at all."""

from typing import Any

import numpy as np
import pytest

from sodiumprep.interfaces.atlases import BringLabels
from sodiumprep.interfaces.image import load_image, save_image

FINE = np.diag([1.0, 1.0, 1.0, 1.0])


@pytest.fixture
def files(tmp_path: Any) -> dict[str, str]:
    labels = np.zeros((8, 8, 8), np.int16)
    labels[:4], labels[4:], labels[0, 0, 0] = 3, 7, 9
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = 0.5
    return {
        "in_file": save_image(tmp_path / "labels.nii.gz", labels, FINE),
        "reference_file": save_image(tmp_path / "anat.nii.gz", np.ones((4, 4, 4)), grid),
    }


def test_each_voxel_takes_the_nearest_label_and_what_has_no_name_is_dropped(
    files, run_in, tmp_path
):
    bring = BringLabels(names={3: "low", 7: "high", 8: "gone"}, in_template=False, **files)
    found = run_in(bring, tmp_path / "run")
    values, _ = load_image(found.out_file)
    assert set(np.unique(values[:2])) <= {0, 3}
    assert set(np.unique(values[2:])) == {7}
    assert found.missing == ["gone"]


def test_labels_of_a_template_are_never_taken_for_those_of_the_anatomy(files, tmp_path):
    bring = BringLabels(names={3: "low"}, in_template=True, **files)
    with pytest.raises(ValueError, match="need its transform"):
        bring.run(cwd=str(tmp_path))


def test_labels_beside_the_anatomy_are_refused(files, tmp_path):
    far = FINE.copy()
    far[:3, 3] = 500
    values, _ = load_image(files["in_file"])
    apart = save_image(tmp_path / "far.nii.gz", values.astype(np.int16), far)
    bring = BringLabels(names={3: "low"}, in_template=False, **{**files, "in_file": apart})
    with pytest.raises(ValueError, match="no label lies inside"):
        bring.run(cwd=str(tmp_path))
