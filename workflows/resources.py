"""What each step needs: memory from the size of its input, and threads.

One table for all of them. The figures were fitted to what ``--resource-monitor`` tells of
simulated subjects (``bench/memory.py``); a step that is not heavy declares more than it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces import (
    anatomy,
    anatomy_outputs,
    atlases,
    calibrate,
    coil_fields,
    concentration,
    eyes,
    guided,
    map_outputs,
    outputs,
    parcels,
    pvc,
    pvc_kspace,
    pvc_maps,
    quality,
    ready,
    reconstruct,
    regions,
    registration,
    replacement,
    sessions,
    sodium_only,
    surroundings,
    table_outputs,
    transforms,
    vials,
)
from sodiumprep.workflows.plans import AnatomyPlan, Size, SodiumPlan

GB = 1e9
BASE = 0.25  # GB, of a process with the libraries


class Need(NamedTuple):
    """What a step takes beyond the libraries.

    Parameters
    ----------
    anatomy
        Bytes for each voxel of the 1H image.
    sodium
        Bytes for each voxel of the sodium image.
    samples
        Bytes for each sample of raw data.
    received
        Bytes for each sample of each coil.
    maps
        Bytes for each voxel of the sodium image and each coil.
    fixed
        GB, whatever the input.
    threads
        Whether it uses the threads of a process.
    """

    anatomy: float = 0.0
    sodium: float = 0.0
    samples: float = 0.0
    received: float = 0.0
    maps: float = 0.0
    fixed: float = 0.0
    threads: bool = False


LIGHT = Need(anatomy=15, sodium=100)  # an image of each, once
GRIDDING = Need(sodium=130, samples=240, received=8, threads=True)
SLOPPY_NORMALIZATION = Need(anatomy=40, fixed=0.26, threads=True)  # fields on 2 mm, not 1 mm
# of one case only: 2.7 million samples, eight coils, 64 voxels along each axis, one thread
ITERATIVE = Need(sodium=400, samples=280, received=16, maps=16, threads=True)
SPARING = Need(sodium=300, samples=260, received=16, maps=16, threads=True)
NEEDS: dict[type, Need] = {
    anatomy.RemoveBackground: Need(anatomy=20),
    anatomy.BiasCorrect: Need(anatomy=45, fixed=0.1, threads=True),
    anatomy.BrainExtract: Need(anatomy=50, fixed=0.2, threads=True),
    anatomy.HeadMask: Need(anatomy=45, fixed=0.1),
    anatomy.Normalize: Need(anatomy=40, fixed=2.05, threads=True),
    anatomy.TissueFractions: Need(anatomy=135, threads=True),
    anatomy_outputs.SaveAnatomy: Need(anatomy=20, fixed=0.1),
    anatomy_outputs.SaveTransforms: Need(fixed=0.4),
    atlases.BringLabels: Need(anatomy=40),
    atlases.SaveLabels: LIGHT,
    calibrate.Calibrate: LIGHT,
    coil_fields.CorrectReceive: Need(sodium=900, fixed=0.15, threads=True),
    coil_fields.CorrectTransmit: Need(sodium=400),
    coil_fields.AssessTransmit: Need(sodium=400),
    concentration.MapConcentration: LIGHT,
    concentration.MapResidual: LIGHT,
    concentration.TabulateRegions: LIGHT,
    concentration.ResampleToAnatomy: Need(anatomy=40),
    concentration.ResampleCorrected: Need(sodium=100, fixed=0.4),
    concentration.ResampleToTemplate: Need(sodium=100, fixed=0.4),
    eyes.FindEyes: Need(anatomy=40, sodium=200, fixed=0.1),
    guided.ReconstructGuided: ITERATIVE,
    map_outputs.SaveCorrected: Need(anatomy=40, sodium=100),
    map_outputs.SaveNonlinear: Need(anatomy=40, sodium=100),
    map_outputs.SaveSpace: LIGHT,
    outputs.SaveSodium: Need(anatomy=40, sodium=100),
    outputs.SaveSodiumOnly: LIGHT,
    parcels.TabulateParcels: Need(anatomy=250, sodium=1000, threads=True),
    pvc.CorrectPartialVolume: Need(sodium=2700, threads=True),
    pvc_kspace.RegressKspace: Need(anatomy=200, sodium=1000, samples=300, received=16, maps=16,
                                   threads=True),
    pvc_maps.MapCorrected: Need(anatomy=300, sodium=1000, threads=True),
    quality.AssessQuality: LIGHT,
    ready.TakeFractions: Need(anatomy=55),
    ready.TakeImage: Need(anatomy=15),
    ready.TakeMask: Need(anatomy=45),
    reconstruct.DescribeImage: LIGHT,
    reconstruct.ReconstructKspace: GRIDDING,
    regions.SampleRegions: Need(anatomy=180, sodium=1000, threads=True),
    regions.SampleDrawnRegions: Need(sodium=1000),
    regions.UniteLesions: Need(anatomy=30),
    registration.RegisterSodium: Need(anatomy=25, sodium=300, fixed=0.2, threads=True),
    replacement.MeasurePhantom: LIGHT,
    sessions.AlignSessions: Need(anatomy=80, threads=True),
    sessions.BuildTemplate: Need(anatomy=120, threads=True),
    sessions.MoveLabels: Need(anatomy=30),
    sessions.MoveMasks: Need(anatomy=30),
    sessions.PlaceSodium: LIGHT,
    sessions.ReturnToSession: LIGHT,
    sessions.SaveSession: Need(anatomy=30),
    sodium_only.MapApparent: LIGHT,
    sodium_only.TabulateDrawn: LIGHT,
    surroundings.LabelMirrors: Need(anatomy=150),
    surroundings.LabelShells: Need(anatomy=80),
    table_outputs.SaveParcels: LIGHT,
    transforms.InvertTransform: LIGHT,
    vials.FindVials: Need(anatomy=40, sodium=500),
}  # fmt: skip


def memory(interface: Any, size: Size) -> float:
    """Return the memory that a step needs [GB].

    Parameters
    ----------
    interface
        What the step computes.
    size
        Of its input.

    Raises
    ------
    KeyError
        If nobody has said what such a step needs.

    Examples
    --------
    >>> large, small = Size(anatomy=8_000_000), Size(anatomy=1_000_000)
    >>> memory(anatomy.BiasCorrect(), large) > memory(anatomy.BiasCorrect(), small)
    True
    """
    need = _need(interface)
    numbers = (
        need.anatomy * size.anatomy,
        need.sodium * size.sodium,
        need.samples * size.samples,
        need.received * size.samples * size.coils,
        need.maps * size.sodium * size.coils,
    )
    return round(BASE + need.fixed + sum(numbers) / GB, 2)


def _need(interface: Any) -> Need:
    recon = getattr(interface.inputs, "recon", "gridding")
    if isinstance(interface, reconstruct.ReconstructKspace) and recon != "gridding":
        return SPARING if interface.inputs.low_mem else ITERATIVE
    if isinstance(interface, anatomy.Normalize) and interface.inputs.sloppy:
        return SLOPPY_NORMALIZATION
    return NEEDS[type(interface)]


def declare(
    workflow: Workflow, anatomy: AnatomyPlan | None, runs: Sequence[SodiumPlan], threads: int = 1
) -> None:
    """Let every step of a subject's graph declare its memory and its threads.

    Parameters
    ----------
    workflow
        Of the subject; it is changed.
    anatomy, runs
        Plans that it was built from.
    threads
        Of one process.
    """
    sizes = {plan.name: plan.size for plan in runs}
    shared = anatomy.size if anatomy is not None else Size()
    for name, node in steps(workflow).items():
        size = sizes.get(name.partition(".")[0], shared)
        node._mem_gb = memory(node.interface, size)
        node.n_procs = threads if _need(node.interface).threads else 1


def steps(workflow: Workflow) -> dict[str, Node]:
    """Return the nodes of a graph that compute something, by name.

    Parameters
    ----------
    workflow
        With workflows inside.
    """
    nodes = {name: workflow.get_node(name) for name in workflow.list_node_names()}
    return {
        name: node
        for name, node in nodes.items()
        if not isinstance(node.interface, IdentityInterface)
    }
