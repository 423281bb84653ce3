"""The sodium image: reconstructed or taken as it is, then corrected for the coils."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.coil_fields import CorrectReceive, CorrectTransmit
from sodiumprep.interfaces.reconstruct import DescribeImage, ReconstructKspace
from sodiumprep.workflows.plans import SodiumPlan

OUTPUTS = [
    "raw_image_file",
    "raw_noise_file",
    "image_file",
    "noise_file",
    "static_file",
    "static_noise_file",
    "response_file",
    "static_response_file",
    "receive_file",
    "receive_uncertainty_file",
    "field_file",
    "model_file",
    "properties",
]
OF_TRANSMIT = ["flip_file", "transmit_model_file"]  # further outputs where the flip angle is known
SOURCES = {True: ReconstructKspace, False: DescribeImage}
# a surname with a year names a reference of the methods text
TRANSFORM = "the non-uniform Fourier transform (finufft, Barnett 2019)"
METHODS = {
    "gridding": f"by gridding: the adjoint of {TRANSFORM}, applied to density-compensated samples",
    "cg": "by CG-SENSE (Pruessmann 2001) with an L2 term, its least squares weighted by the "
    f"density compensation, with {TRANSFORM}",
    "tv": "by minimizing density-weighted least squares and total variation (Rudin 1992) in "
    f"alternating directions (Boyd 2011), with {TRANSFORM}",
}
SENSITIVITIES = {
    "centre": "Coil sensitivities came from the centre of k-space (McKenzie 2002).",
    "espirit": "Coil sensitivities came from ESPIRiT (Uecker 2014).",
}
NOISE = {
    "gridding": "The noise of the samples was propagated to the image exactly.",
    "cg": "The noise of the image was found by probing its covariance (Tang 2012).",
    "tv": "The noise of the image was found by pseudo-replicas (Robson 2008).",
}
DENSITY = (
    "Density compensation was analytic for radial readouts and for readouts on cones (Nagel "
    "2009), else found by iteration (Pipe 1999)."
)
READY = "Sodium images were taken as the scanner reconstructed them."


def describe_reconstruction(plan: SodiumPlan) -> str:
    """Return the part of the methods text that is on the sodium image.

    Parameters
    ----------
    plan
        What is known of the run.

    Returns
    -------
    text
        Sentences; references as a surname with a year in brackets.
    """
    received = "Sodium images were corrected for the receive profile." if plan.receive else ""
    if "reciprocity_uncertainty" in plan.receive:
        received += " It was taken to be that of the flip angle (reciprocity, Hoult 1976)."
    if plan.transmit:
        way = "a map" if "map_file" in plan.transmit else "two flip angles (Insko 1993)"
        received += f" The flip angle came from {way} and acted through the steady state."
    parts = list(_kspace_sentences(plan.source)) if plan.is_kspace else [READY]
    if plan.is_kspace and plan.reference == "vials":
        parts.append("Vials were then read from an average of the repetitions without alignment.")
    return " ".join(filter(None, [*parts, received]))


def _kspace_sentences(source: Mapping[str, Any]) -> Iterator[str]:
    method = source.get("recon", "gridding")
    window = " under a Hamming window" if source.get("kspace_filter") == "hamming" else ""
    yield f"Sodium images were reconstructed {METHODS[method]}{window}."
    yield DENSITY
    if method != "gridding":
        yield SENSITIVITIES[source.get("sensitivities", "centre")]
    yield NOISE[method]
    if source.get("gradient_delay"):
        yield "Known gradient delays were corrected in the trajectory."
    elif source.get("estimate_delay"):
        yield "Gradient delays were estimated from the data and corrected in the trajectory."
    if source.get("fieldmap_file"):
        yield "Off-resonance was corrected with a field map in time segments (Noll 1991)."
    yield (
        "Repetitions between which the head had moved were aligned rigidly in k-space "
        "(Batchelor 2005); outliers were left out."
    )


def init_reconstruct_wf(plan: SodiumPlan, name: str = "reconstruct_wf") -> Workflow:
    """Build the graph of the sodium image.

    Parameters
    ----------
    plan
        What is known of the run.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``outputnode``: ``raw_image_file`` and ``raw_noise_file`` [signal]; the same corrected for
        the coils as ``image_file`` and ``noise_file``, and as ``static_file`` and
        ``static_noise_file`` where the head is not aligned; ``response_file`` (transfer
        functions and noise spectrum) and ``static_response_file``, ``receive_file`` (factor of
        that correction), ``receive_uncertainty_file`` (None where unknown), ``field_file`` (of
        all corrections), ``model_file``, ``properties``;
        with a transmit field ``flip_file`` and ``transmit_model_file``.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = describe_reconstruction(plan)
    source = Node(
        SOURCES[plan.is_kspace](tissues=plan.kernel_tissues, **plan.source),
        name="source",
    )
    receive = Node(CorrectReceive(**plan.receive), name="receive")
    result = Node(
        IdentityInterface([*OUTPUTS, *(OF_TRANSMIT if plan.transmit else [])]), name="outputnode"
    )
    last = add_transmit(workflow, plan, receive)
    workflow.connect([
        (source, receive, [
            ("image_file", "image_file"),
            ("noise_file", "noise_file"),
            ("static_image_file", "static_image_file"),
            ("static_noise_file", "static_noise_file"),
            ("properties", "properties"),
        ]),
        (source, result, [
            ("image_file", "raw_image_file"),
            ("noise_file", "raw_noise_file"),
            ("response_file", "response_file"),
            ("static_response_file", "static_response_file"),
        ]),
        (receive, result, [
            ("field_file", "receive_file"),
            ("uncertainty_file", "receive_uncertainty_file"),
            ("model_file", "model_file"),
        ]),
        (last, result, [
            ("out_file", "image_file"),
            ("noise_file", "noise_file"),
            ("static_file", "static_file"),
            ("static_noise_file", "static_noise_file"),
            ("field_file", "field_file"),
            ("properties", "properties"),
        ]),
    ])  # fmt: skip
    if plan.transmit:
        known = [("flip_file", "flip_file"), ("model_file", "transmit_model_file")]
        workflow.connect([(last, result, known)])
    return workflow


def add_transmit(workflow: Workflow, plan: SodiumPlan, receive: Node) -> Node:
    """Let the transmit correction, if there is one, follow the receive correction.

    Parameters
    ----------
    workflow
        That holds ``receive``.
    plan
        What is known of the run.
    receive
        Node of the receive correction.

    Returns
    -------
    last
        Node of the last correction: ``receive`` itself without a transmit field.
    """
    if not plan.transmit:
        return receive
    transmit = Node(
        CorrectTransmit(protocol=dict(plan.protocol), **plan.transmit),
        name="transmit",
    )
    taken = ("noise_file", "static_file", "static_noise_file", "field_file", "properties")
    workflow.connect(
        [(receive, transmit, [("out_file", "image_file"), *((port, port) for port in taken)])]
    )
    return transmit
