"""Regional signals from files: the truth of the head that was written."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.pvc import CorrectPartialVolume, load_signals
from sodiumprep.interfaces.reconstruct import load_response, save_response
from sodiumprep.interfaces.regions import SampleRegions
from sodiumprep.sodium.kernel import gaussian_transfer


@pytest.fixture
def correct(head, measured, run_in, tmp_path):
    def corrected(**changes):
        inputs = {k: measured[k] for k in ("image_file", "noise_file", "regions_file")}
        inputs |= {"response_file": head["response_file"], "properties": head["properties"]}
        outputs = run_in(CorrectPartialVolume(**{**inputs, **changes}), tmp_path / "run")
        stored = load_signals(outputs.signals_file)
        if "methods" in changes:
            return stored, outputs.properties
        return vars(stored["gtm"]), outputs.properties

    return corrected


def test_the_signals_of_tissues_and_vials_are_recovered_within_their_noise(correct, measured):
    stored, _ = correct()
    sd = np.sqrt(np.diag(stored["covariance"]))
    assert np.all(np.abs(stored["values"] - measured["signals"])[:5] < 4 * sd[:5])
    np.testing.assert_allclose(stored["values"][:3], measured["signals"][:3], rtol=0.02)


def test_voxels_that_share_no_noise_make_another_uncertainty(correct, stripes_file):
    both = [np.diag(correct(**changes)[0]["covariance"])[:3]
            for changes in ({}, {"response_file": stripes_file})]  # fmt: skip
    assert np.abs(both[1] / both[0] - 1).max() > 0.2


def test_the_condition_number_is_told_and_the_properties_are_kept(correct, head):
    _, properties = correct()
    assert 1 < properties["ConditionNumber"] < 50
    assert head["properties"].items() <= properties.items()


def test_kernel_and_position_change_every_tissue(correct):
    stored, _ = correct()
    assert np.all(np.abs(stored["kernel_change"][:3]) > 0)
    assert np.all(np.abs(stored["registration_changes"][:, :3]) > 0)
    assert stored["registration_changes"].shape[0] == 6


def test_another_constant_of_decay_changes_what_its_kernel_changes(
    correct, head, run_in, tmp_path, sodium_geometry
):
    response = load_response(head["response_file"])
    wide = response.transfers["GM"] * gaussian_transfer(sodium_geometry, np.full(3, 3e-3))
    sampled = {k: head[k] for k in ("gm_file", "wm_file", "csf_file", "brain_mask", "head_mask",
                                    "xfm_file", "vial_labels")}  # fmt: skip
    found = {}
    for place, name in (("told", "GM|t2_long"), ("true", "GM")):
        transfers = {**response.transfers, name: wide.astype(np.complex64)}
        path = save_response(tmp_path / f"{place}.npz", replace(response, transfers=transfers))
        sample = SampleRegions(sodium_file=head["grid_file"], vial_names=["1 low", "2 high"],
                               response_file=path, **sampled)  # fmt: skip
        files = {"regions_file": run_in(sample, tmp_path / place).regions_file}
        found[place], _ = correct(methods=["labbe", "rbv"], **files)
    for method in ("gtm", "labbe"):
        told = found["told"][method]
        expected = found["true"][method].values - told.values
        assert np.abs(expected[:3] / told.values[:3]).max() > 0.01
        np.testing.assert_allclose(told.decay_changes[0, 1], expected, rtol=1e-4, atol=1e-3)
        assert not told.decay_changes[1:].any()
        assert not found["true"][method].decay_changes.any()
    assert len(found["told"]["rbv"].decay_changes) == 0  # takes those of the transfer matrix
    assert not found["told"]["none"].decay_changes.any()


@pytest.mark.parametrize("spread", [None, "missing"])
def test_an_unknown_position_leaves_its_term_open(correct, head, spread):
    known = {k: v for k, v in head["properties"].items() if k != "RegistrationSpread"}
    if spread is None:
        known["RegistrationSpread"] = None
    assert np.isnan(correct(properties=known)[0]["registration_changes"]).all()


def test_restarts_that_all_agree_leave_no_uncertainty_of_position(correct, head):
    known = {**head["properties"], "RegistrationSpread": 0.0}
    np.testing.assert_allclose(correct(properties=known)[0]["registration_changes"], 0, atol=1e-4)


def test_an_image_without_known_noise_is_corrected_all_the_same(correct, measured, tmp_path):
    noise, affine = load_image(measured["noise_file"])
    path = save_image(tmp_path / "nan.nii.gz", np.full_like(noise, np.nan), affine)
    stored, _ = correct(noise_file=path)
    np.testing.assert_allclose(stored["values"][:3], measured["signals"][:3], rtol=0.02)
    assert np.isnan(np.diag(stored["covariance"])).all()


def test_an_image_with_nan_is_refused_with_its_file(correct, measured, tmp_path):
    image, affine = load_image(measured["image_file"])
    image[2, 2, 2] = np.nan
    path = save_image(tmp_path / "broken.nii.gz", image, affine)
    with pytest.raises(ValueError, match=r"broken.nii.gz: 1 voxels hold NaN"):
        correct(image_file=path)


def test_a_brain_that_may_be_wrong_is_told_to_table_and_quality_file(correct, head):
    known = {**head["properties"], "Warnings": ["first"]}
    _, properties = correct(properties=known, brain_warning="the brain mask holds 3960 ml")
    assert properties["BrainImplausible"]
    assert properties["Warnings"] == ["first", "the brain mask holds 3960 ml"]
    assert "BrainImplausible" not in correct()[1]


def test_every_method_that_is_asked_for_stands_beside_the_transfer_matrix(correct, measured):
    stored, _ = correct(methods=["labbe"])
    assert list(stored) == ["none", "gtm", "labbe"]
    own = stored["labbe"]
    np.testing.assert_allclose(own.values[:3], measured["signals"][:3], rtol=0.02)
    assert np.all(np.diag(own.covariance)[:3] > 0)
    assert np.all(np.abs(own.kernel_change[:3]) > 0)
    assert np.all(np.abs(own.registration_changes[:, :3]) > 0)


def test_least_squares_takes_equal_weights_where_the_noise_is_not_known(
    correct, measured, tmp_path
):
    noise, affine = load_image(measured["noise_file"])
    path = save_image(tmp_path / "nan.nii.gz", np.full_like(noise, np.nan), affine)
    stored, _ = correct(noise_file=path, methods=["labbe"])
    np.testing.assert_allclose(stored["labbe"].values[:3], measured["signals"][:3], rtol=0.02)


def test_the_residual_of_a_region_is_its_noise_where_the_model_is_right(correct, measured):
    noise, _ = load_image(measured["noise_file"])
    stored, _ = correct()
    np.testing.assert_allclose(stored["residual_sd"][:3], noise.mean(), rtol=0.1)


def test_the_residual_over_the_noise_is_told_by_region(correct):
    _, properties = correct()
    told = properties["ResidualOverNoise"]
    assert list(told) == ["GM", "WM", "CSF"]
    assert all(0.8 < value < 1.2 for value in told.values())


def test_maps_may_rest_on_least_squares(correct):
    by_gtm, by_labbe = (
        correct(methods=["rbv"], feed=feed)[0]["rbv"].values[:3] for feed in ("gtm", "labbe")
    )
    assert not np.array_equal(by_gtm, by_labbe)
    np.testing.assert_allclose(by_gtm, by_labbe, rtol=0.02)
