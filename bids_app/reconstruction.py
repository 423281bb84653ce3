"""What a report says of a reconstruction from k-space, from the quality file alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sodiumprep.bids_app.figures import load_volume
from sodiumprep.bids_app.results import RunResults
from sodiumprep.bids_app.wording import UNKNOWN, number, plain_value, triple

Fact = tuple[str, str]
BY_SCANNER = "by the scanner"
LINEAR_EVERYWHERE = "gridding"
METHODS = {
    "gridding": "adjoint of the non-uniform Fourier transform",
    "cg": "CG-SENSE with an L2 term",
    "tv": "total variation",
    "agr": "directional total variation along the edges of the 1H image",
}
DENSITY = {
    "radial": "analytic for radial readouts (4π k² dk), doi:10.1002/mrm.22157",
    "analytic on cones": "analytic on cones (4π k² dk), doi:10.1002/mrm.22157",
    "Pipe-Menon": "Pipe-Menon, found by iteration, "
    "doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V",
}
NOISE_MAPS = {
    "gridding": "propagated exactly",
    "cg": "propagated by probing the covariance of the linear method",
    "tv": "by pseudo-replicas of the whole reconstruction",
    "agr": "by pseudo-replicas of the whole reconstruction",
}
NOT_LINEAR = {"tv", "agr"}


def is_from_kspace(metrics: Mapping[str, Any]) -> bool:
    """Tell whether a run was reconstructed from raw data.

    Parameters
    ----------
    metrics
        Entries of the quality file.

    Examples
    --------
    >>> is_from_kspace({"Reconstruction": "cg"}), is_from_kspace({})
    (True, False)
    >>> is_from_kspace({"Reconstruction": "by the scanner"})
    False
    """
    return metrics.get("Reconstruction", BY_SCANNER) != BY_SCANNER


def is_for_looking(metrics: Mapping[str, Any]) -> bool:
    """Tell whether a run holds maps of a method that is not linear, which have no table.

    Parameters
    ----------
    metrics
        Entries of the quality file.
    """
    return metrics.get("Reconstruction") in NOT_LINEAR


def reconstruction_section(run: RunResults) -> dict[str, Any]:
    """Return what the section on the reconstruction holds.

    Parameters
    ----------
    run
        Reconstructed from raw data; keys that its quality file lacks are left out.

    Returns
    -------
    section
        ``facts`` (label and text), ``tissues`` (kernel and SNR of each), ``holds`` (where the
        kernels do), ``motion`` (one row per repetition, none for a single one) and ``moved``.
    """
    held = run.metrics
    rows = [*_method(held), *_sampling(held), *_noise(run), *_imperfections(held), *_course(held)]
    motion = list(_motion(held))
    return {
        "facts": [(label, text) for label, text in rows if text and text != UNKNOWN],
        "tissues": list(_tissues(held)),
        "holds": where_kernels_hold(held),
        "motion": motion if len(motion) > 1 else [],
    }


def course_of(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the course of the iterations; empty where there were none, or it is not known.

    Parameters
    ----------
    metrics
        Entries of the quality file.
    """
    course = metrics.get("Course")
    return course if isinstance(course, Mapping) else {}


def where_kernels_hold(metrics: Mapping[str, Any]) -> str:
    """Say where the point-spread functions hold; empty where that is not known.

    Parameters
    ----------
    metrics
        Entries of the quality file.

    Examples
    --------
    >>> where_kernels_hold({"Reconstruction": "cg", "PointSpreadLocalAt": [3, 4, 5]})
    'The kernels were found at voxel 3, 4, 5 (middle of the object) and vary slowly elsewhere.'
    """
    if "PointSpreadLocalAt" not in metrics:
        return ""
    place, method = metrics["PointSpreadLocalAt"], metrics.get("Reconstruction")
    if not place:
        return "The kernels hold everywhere."
    found = f"voxel {plain_value(place)} (middle of the object)"
    if method in NOT_LINEAR:
        return (
            f"The kernels are local responses to a small point at {found} and hold there only: "
            "the method is not linear, and its blur depends on the image."
        )
    return f"The kernels were found at {found} and vary slowly elsewhere."


def largest_displacement(metrics: Mapping[str, Any]) -> float | None:
    """Return the largest displacement of a repetition that is used, from the reference [mm].

    Parameters
    ----------
    metrics
        Entries of the quality file.

    Examples
    --------
    >>> blocks = [{"displacement_mm": 0.0}, {"displacement_mm": 1.2},
    ...           {"displacement_mm": 9.0, "rejected": "no pose was found"}]
    >>> largest_displacement({"Motion": blocks}), largest_displacement({"Motion": []})
    (1.2, None)
    """
    used = [b.get("displacement_mm") for b in _blocks(metrics) if not b.get("rejected")]
    return max((value for value in used if value is not None), default=None)


def rejected_repetitions(metrics: Mapping[str, Any]) -> int | None:
    """Return how many repetitions were left out, or None where that is not known.

    Parameters
    ----------
    metrics
        Entries of the quality file.

    Examples
    --------
    >>> rejected_repetitions({"Motion": []}), rejected_repetitions({})
    (0, None)
    """
    if "Motion" not in metrics:
        return None
    return sum(bool(block.get("rejected")) for block in _blocks(metrics))


def largest_delay(metrics: Mapping[str, Any]) -> float | None:
    """Return the largest estimated gradient delay, without its sign [us].

    Parameters
    ----------
    metrics
        Entries of the quality file.

    Examples
    --------
    >>> largest_delay({"GradientDelay": {"Estimated_us": [0.4, -2.5, 1.0]}})
    2.5
    """
    found = _mapping(metrics, "GradientDelay").get("Estimated_us") or []
    return max((abs(delay) for delay in found if delay is not None), default=None)


def _mapping(metrics: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    held = metrics.get(key)
    return held if isinstance(held, Mapping) else {}


def _blocks(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    held = metrics.get("Motion")
    return [b for b in held if isinstance(b, Mapping)] if isinstance(held, list) else []


def _method(held: Mapping[str, Any]) -> Iterator[Fact]:
    name = plain_value(held.get("Reconstruction"))
    meaning = METHODS.get(name)
    yield "Method", f"{name}: {meaning}" if meaning else name
    yield "Why", plain_value(held.get("ReconstructionReason"))
    if name not in METHODS or name == LINEAR_EVERYWHERE:
        yield "k-space filter", plain_value(held.get("KspaceFilter"))
    yield "Coil sensitivities", _sensitivities(course_of(held).get("CoilSensitivities"))


def _sensitivities(name: Any) -> str:
    known = {"centre": "from the centre of k-space", "espirit": "ESPIRiT"}
    return known.get(str(name), plain_value(name))


def _sampling(held: Mapping[str, Any]) -> Iterator[Fact]:
    counts = [
        f"{plain_value(held[key])} {word}"
        for key, word in (
            ("Coils", "coils"),
            ("Readouts", "readouts"),
            ("SamplesPerReadout", "samples per readout"),
        )
        if held.get(key) is not None
    ]
    yield "Raw data", ", ".join(counts)
    yield "Repetitions", plain_value(held.get("Repetitions"))
    yield "Echoes", _echoes(held)
    yield "Voxels per sample", number(held.get("VoxelsPerSample"), 3)
    weighting = plain_value(held.get("DensityCompensation"))
    yield "Density compensation", DENSITY.get(weighting, weighting)
    step = number(held.get("CentreStepTimesTwiceFOV"), 3)
    yield (
        "Step at the k-space centre",
        "" if step == UNKNOWN else f"{step} / (2 FOV); above 1 inflates the image",
    )


def _echoes(held: Mapping[str, Any]) -> str:
    """Say which echoes the image is made of; empty where only one was looked for."""
    used, times = held.get("EchoesUsed"), held.get("EchoTimesUsed")
    if not used or not times:
        return ""
    shown = ", ".join(number(1e3 * time, 3) for time in times)
    return f"{used} used, from {shown} ms on"


def _noise(run: RunResults) -> Iterator[Fact]:
    held = run.metrics
    yield "Noise from", plain_value(held.get("NoiseSource"))
    yield "Noise map", NOISE_MAPS.get(str(held.get("Reconstruction")), "")
    yield "Noise level", noise_level(run)


def noise_level(run: RunResults) -> str:
    """Return the noise SD of the image as text, or nothing where it cannot be read.

    Parameters
    ----------
    run
        With a reconstructed image and its noise map.
    """
    paths = run.names.sodium_preproc(), run.names.sodium_preproc(stat="noise")
    if not all(path.is_file() for path in paths):
        return ""
    try:
        image, noise = (load_volume(path).values for path in paths)
    except (ValueError, OSError):
        return ""  # the figure of the noise says so
    if not np.isfinite(noise).any():
        return ""
    middle = float(np.nanmedian(noise))
    bright = float(np.nanpercentile(image, 99))
    share = f", {100 * middle / bright:.2g} % of the image's 99th percentile" if bright > 0 else ""
    return f"SD {middle:.4g} (median of the map, signal units{share})"


def _imperfections(held: Mapping[str, Any]) -> Iterator[Fact]:
    delay = _mapping(held, "GradientDelay")
    if delay:
        yield "Gradient delay, corrected", _corrected_delay(delay)
        yield "Gradient delay, estimated", _estimated_delay(delay)
    field = _mapping(held, "OffResonance")
    if field:
        yield "Off-resonance, corrected", _off_resonance(field)
    decay = _mapping(held, "DecayInModel")
    if decay:
        segments, error = decay.get("Segments"), decay.get("Error")
        yield "Decay in the model", f"{plain_value(segments)} time segments{_error(error)}"
    width = held.get("PointSpreadUncertainty")
    known = isinstance(width, (int, float))
    yield "Uncertainty of the kernels' width", f"{100 * width:.2g} %" if known else ""


def _corrected_delay(delay: Mapping[str, Any]) -> str:
    corrected = delay.get("Corrected_us")
    if corrected is None and delay.get("Corrected"):  # seconds, where none could be estimated
        corrected = [1e6 * time for time in delay["Corrected"]]
    return f"{triple(corrected, 2)} μs (read, phase, slice)" if corrected else "none"


def _estimated_delay(delay: Mapping[str, Any]) -> str:
    found, spread = delay.get("Estimated_us"), delay.get("EstimatedUncertainty_us")
    if not found:
        return f"not possible: {plain_value(delay.get('Why'))}"
    errors = spread or [None] * len(found)
    pairs = zip(found, errors, strict=False)
    shown = ", ".join(f"{number(d, 2)} ± {number(u, 2)}" for d, u in pairs)
    return f"{shown} μs (read, phase, slice)"


def _off_resonance(field: Mapping[str, Any]) -> str:
    ends = (number(field.get(key), 1) for key in ("Minimum_Hz", "Maximum_Hz"))
    segments = plain_value(field.get("Segments"))
    error = _error(field.get("SegmentError"))
    return f"{' to '.join(ends)} Hz in {segments} time segments{error}"


def _error(value: Any) -> str:
    known = isinstance(value, (int, float))
    return f" (error up to {100 * value:.2g} % of a voxel's signal)" if known else ""


def _course(held: Mapping[str, Any]) -> Iterator[Fact]:
    course = course_of(held)
    if course:
        yield "Iterations", plain_value(course.get("Iterations"))
        yield "Converged", plain_value(course.get("Converged"))


def _tissues(held: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield kernel and SNR of each tissue; vials stand in a table of their own."""
    widths, gains = _mapping(held, "PointSpreadFWHM"), _mapping(held, "PointSpreadGain")
    noise = _mapping(held, "SNR")
    vials = {vial.get("name") for vial in _mapping(held, "Calibration").get("vials") or []}
    for name in dict.fromkeys([*noise, *widths]):
        if name in vials:
            continue
        axes = np.atleast_1d(widths.get(name, [])).tolist()
        yield {
            "name": name,
            "widths": [number(width, 2) for width in (axes + 3 * [None])[:3]],
            "gain": gains.get(name),
            "snr": noise.get(name),
        }


def _motion(held: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for block in _blocks(held):
        label, rejected = block.get("block"), block.get("rejected")
        yield {
            "block": str(label + 1) if isinstance(label, int) else plain_value(label),
            "rotation": triple(block.get("rotation_deg"), 2),
            "translation": triple(block.get("translation_mm"), 2),
            "displacement": f"{number(block.get('displacement_mm'), 2)} ± "
            f"{number(block.get('displacement_sd_mm'), 2)}",
            "misfit": number(block.get("misfit"), 3),
            "rejected": plain_value(rejected) if rejected else "",
            "used": "reference" if block.get("reference") else "used",
        }
