"""The sodium image: reconstructed or taken as it is, then corrected for the receive profile."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.coil_fields import CorrectReceive
from sodiumprep.interfaces.reconstruct import DescribeImage, ReconstructKspace
from sodiumprep.workflows.plans import SodiumPlan

OUTPUTS = [
    "raw_image_file",
    "raw_noise_file",
    "image_file",
    "noise_file",
    "response_file",
    "field_file",
    "model_file",
    "properties",
]
SOURCES = {True: ReconstructKspace, False: DescribeImage}
DESCRIPTION = (
    "Sodium images were reconstructed by the density-weighted adjoint of the non-uniform Fourier "
    "transform (finufft) and corrected for the receive profile."
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
        the receive profile as ``image_file`` and ``noise_file``; ``response_file`` (transfer
        functions and noise spectrum), ``field_file``, ``model_file``, ``properties``.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    source = Node(
        SOURCES[plan.is_kspace](tissues=dict(plan.tissues), **plan.source),
        name="source",
        mem_gb=2.0,
    )
    receive = Node(CorrectReceive(**plan.receive), name="receive", mem_gb=1.0)
    result = Node(IdentityInterface(OUTPUTS), name="outputnode")
    workflow.connect([
        (source, receive, [
            ("image_file", "image_file"),
            ("noise_file", "noise_file"),
            ("properties", "properties"),
        ]),
        (source, result, [
            ("image_file", "raw_image_file"),
            ("noise_file", "raw_noise_file"),
            ("response_file", "response_file"),
        ]),
        (receive, result, [
            ("out_file", "image_file"),
            ("noise_file", "noise_file"),
            ("field_file", "field_file"),
            ("model_file", "model_file"),
            ("properties", "properties"),
        ]),
    ])  # fmt: skip
    return workflow
