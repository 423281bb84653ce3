"""Parcels of tissues: the same numbers as regions that are sampled and blurred one by one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.fft
from scipy.ndimage import gaussian_filter

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.kernel import gaussian_transfer
from sodiumprep.sodium.noise import ImageNoise, normalized_spectrum
from sodiumprep.sodium.pvc.parcels import (
    REST,
    Division,
    Layer,
    LocalKernel,
    Others,
    ParcelModel,
    ShownLayer,
    parcel_model,
)
from sodiumprep.sodium.pvc.regional import IndistinctRegionsError, gtm, uncorrected
from sodiumprep.sodium.pvc.sensitivity import (
    Border,
    MovedBorder,
    kernel_change,
    segmentation_changes,
    shift_changes,
)
from sodiumprep.sodium.pvc.shown import SampledRegions
from sodiumprep.sodium.regions import blur_to_grid, voxel_means

N, FACTOR = 30, 3
SHAPE = (N, N, N)
TISSUES = ("GM", "WM")
WIDTHS = {"GM": 2.2, "WM": 1.9, "air": 2.2}  # voxels
WANTED = [(label, tissue) for label in (1, 2, 3, 4) for tissue in TISSUES]


def _transfer(width: float) -> Any:
    grid = Geometry(np.zeros(3), np.eye(3), SHAPE, SHAPE)
    radius = np.sqrt(
        sum(
            np.abs(f).reshape([-1 if a == k else 1 for a in range(3)]) ** 2
            for k, f in enumerate(
                (np.fft.fftfreq(2 * N), np.fft.fftfreq(2 * N), np.fft.rfftfreq(2 * N))
            )
        )
    )
    lobes = 0.5 * (1 + np.cos(np.pi * np.minimum(radius / 0.5, 1)))
    return (gaussian_transfer(grid, np.full(3, width)) * lobes).astype(np.complex64)


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    fine = N * FACTOR
    place = np.stack(np.meshgrid(*[np.arange(fine)] * 3, indexing="ij")) / FACTOR
    axes = np.array([1.0, 1.15, 0.9]).reshape(3, 1, 1, 1)
    radius = np.linalg.norm((place - (N - 1) / 2) / axes, axis=0)
    outer = np.clip((10.5 - radius) * FACTOR, 0, 1)
    inner = np.clip((7.0 - radius) * FACTOR, 0, 1)
    tissues = {
        "GM": (outer - inner).astype(np.float32),
        "WM": inner.astype(np.float32),
    }
    labels = (1 + (place[0] > N / 2) + 2 * (place[1] > N / 2)).astype(np.int32)
    labels[np.abs(place[2] - N / 2) > 8] = REST
    division = Division(labels, tissues, WANTED, FACTOR)
    transfers = {name: _transfer(width) for name, width in WIDTHS.items()}
    air = 1 - tissues["GM"] - tissues["WM"]
    whole = {**tissues, "air": air}
    level = (1 + 0.3 * gaussian_filter(rng.standard_normal(SHAPE), 4)).astype(np.float32)
    modes = np.stack([np.cos(place[0][::3, ::3, ::3] / 9), np.sin(place[0][::3, ::3, ::3] / 9)])
    power = np.asarray(np.abs(_transfer(1.5)) ** 2)
    spectrum = normalized_spectrum(power, (2 * N, 2 * N, 2 * N))
    noise = ImageNoise(level, spectrum, modes.astype(np.float32))
    return {"division": division, "transfers": transfers, "whole": whole, "noise": noise}


def _sampled(fine: dict[str, Any], transfers: Any, kernels: list[str]) -> SampledRegions:
    shares = np.stack([voxel_means(f, FACTOR) for f in fine.values()])
    shown = [
        blur_to_grid(f, FACTOR, transfers[kernel])
        for f, kernel in zip(fine.values(), kernels, strict=True)
    ]
    return SampledRegions(shares, np.stack(shown), list(fine))


def _one_by_one(case: dict[str, Any]) -> tuple[SampledRegions, list[str]]:
    division = case["division"]
    fine, kernels = {}, []
    for label, tissue in division.keys:
        number = division.keys.index((label, tissue))
        own = division.numbers(tissue)[division.labels] == number
        fine[f"{tissue}-{label}"] = division.tissues[tissue] * own
        kernels.append(tissue)
    fine["air"] = case["whole"]["air"]
    return _sampled(fine, case["transfers"], [*kernels, "air"]), [*kernels, "air"]


@pytest.fixture(scope="module")
def both(case: dict[str, Any]) -> tuple[ParcelModel, SampledRegions, Any]:
    whole = _sampled(case["whole"], case["transfers"], list(case["whole"]))
    image = np.tensordot(np.array([40.0, 30.0, 1.0]), whole.blurred, 1).astype(np.float32)
    tilt = np.linspace(0.8, 1.2, N, dtype=np.float32)[:, None, None]
    image *= tilt
    covariance = gtm(image, whole, case["noise"]).covariance
    known = Others(whole.names, whole.fractions, whole.blurred, covariance)
    model = parcel_model(case["division"], known, case["transfers"], case["noise"])
    return model, _one_by_one(case)[0], image


def test_values_and_their_noise_are_those_of_regions_one_by_one(both, case):
    model, single, image = both
    assert len(single.names) == 5 + 4 + 1  # the labels leave nothing of the inner tissue
    for corrected, method in ((True, gtm), (False, uncorrected)):
        expected = method(image, single, case["noise"])
        found = model.values(image, corrected)
        np.testing.assert_allclose(found, expected.values, rtol=2e-3)
        own = np.sqrt(np.diag(expected.covariance))
        np.testing.assert_allclose(
            model.covariance(corrected) / np.outer(own, own),
            expected.covariance / np.outer(own, own),
            atol=0.02,
        )


def test_what_errors_change_is_what_it_is_for_regions_one_by_one(both, case):
    model, single, image = both
    values = model.values(image, corrected=True)

    def method(shown: Any, regions: Any) -> Any:
        return gtm(shown, regions, None, with_covariance=False).values

    fwhm, shift = np.full(3, 2.2), np.full(3, 0.1)
    expected = kernel_change(method, image, single, fwhm, 0.02)
    np.testing.assert_allclose(model.widened(values, fwhm, 0.02), expected, atol=0.01, rtol=0.04)
    expected = shift_changes(lambda moved: method(moved, single), image, shift)
    np.testing.assert_allclose(model.shifted(image, shift, True), expected, atol=3e-3)


@pytest.mark.parametrize("corrected", [True, False])
def test_a_border_moves_the_parcels_on_both_its_sides(both, case, corrected):
    model, single, image = both
    division, whole = case["division"], case["whole"]
    names = list(whole)
    taken = (0.2 * whole["GM"] * (1 - whole["GM"]) + 0.02 * whole["WM"]).astype(np.float32)
    taken = np.minimum(taken, whole["WM"])
    border = Border(names.index("GM"), names.index("WM"), taken)
    transfers = case["transfers"]
    values = model.values(image, corrected)
    layer = Layer.of(border)
    ends = (("GM", transfers["GM"], 1), ("WM", transfers["WM"], -1))
    shown = ShownLayer(layer.where, layer.share, ends)
    (found,) = model.bordered(image, values, [[shown]], corrected)
    rows = []
    for label in (REST, 1, 2, 3, 4):
        own = taken * (division.labels == label)
        grown, shrunk = (int(division.numbers(t)[label]) for t in TISSUES)
        shown = [blur_to_grid(own, FACTOR, transfers[t]) for t in TISSUES]
        rows.append(MovedBorder(grown, shrunk, voxel_means(own, FACTOR), *shown))
    known = gtm if corrected else uncorrected

    def method(shown: Any, regions: Any) -> Any:
        return known(shown, regions, None, with_covariance=False).values

    expected = segmentation_changes(method, image, single, [rows])[0]
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=0.06 * np.abs(expected).max())


def test_another_kernel_of_one_tissue_changes_its_parcels_most(both, case):
    model, single, image = both
    values = model.values(image, corrected=True)
    found = model.decayed(values, "GM", _transfer(2.3))
    transfers = {**case["transfers"], "GM": _transfer(2.3)}
    moved = _one_by_one({**case, "transfers": transfers})[0]
    expected = gtm(image, moved, None, with_covariance=False).values
    expected -= gtm(image, single, None, with_covariance=False).values
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


def test_without_labels_the_tissues_are_what_they_were(case, both):
    whole = _sampled(case["whole"], case["transfers"], list(case["whole"]))
    _, _, image = both
    estimate = gtm(image, whole, case["noise"])
    known = Others(whole.names, whole.fractions, whole.blurred, estimate.covariance)
    division = case["division"]
    none = Division(np.zeros_like(division.labels), division.tissues, [], FACTOR)
    model = parcel_model(none, known, case["transfers"], case["noise"])
    np.testing.assert_allclose(model.values(image, True), estimate.values, rtol=1e-4)
    np.testing.assert_allclose(model.covariance(True), estimate.covariance, rtol=1e-3)


def test_what_is_too_small_goes_to_the_rest_of_its_tissue(case):
    division = case["division"]
    labels = division.labels.copy()
    corner = np.argwhere(division.tissues["WM"] == 1)[0]
    labels[tuple(corner)] = 5
    found = Division(labels, division.tissues, [*WANTED, (5, "WM")], FACTOR)
    assert (5, "WM") not in found.keys
    assert found.numbers("WM")[5] == found.remainders["WM"]
    assert found.sizes[5, "WM"] == pytest.approx(1 / 27)


def test_a_kernel_followed_locally_is_the_kernel(case):
    transfer = case["transfers"]["GM"]
    values = np.zeros(SHAPE, np.float32)
    values[12:17, 10:15, 13:18] = 1
    doubled = (2 * N,) * 3
    exact = scipy.fft.irfftn(scipy.fft.rfftn(values, doubled) * transfer, doubled)[:N, :N, :N]
    box, found = LocalKernel(transfer).spread(values[12:17, 10:15, 13:18], (12, 10, 13), SHAPE)
    np.testing.assert_allclose(found, exact[box], atol=2e-5)


def test_labels_that_cannot_be_told_apart_are_named(both):
    model, _, image = both
    one, other = (model.division.keys.index((label, "WM")) for label in (2, 3))
    crossing = model.crossing.copy()
    crossing[other], crossing[:, other] = crossing[one], crossing[:, one]
    crossing[other, other] = crossing[one, one]
    with pytest.raises(IndistinctRegionsError, match=r"label 2 \(WM\) from label 3 \(WM\)"):
        replace(model, crossing=crossing).values(image, corrected=True)
