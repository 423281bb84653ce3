"""1H anatomy: from a whole head to brain, tissue fractions and the embedded template."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.anatomy import (
    BiasCorrect,
    BrainExtract,
    HeadMask,
    Normalize,
    RemoveBackground,
    TissueFractions,
)

INPUTS = ["anat_file", "mask_file", "lesion_file", "age", "inversion_files"]
OUTPUTS = [
    "preproc_file",
    "brain_mask",
    "inner_mask",
    "head_mask",
    "gm_file",
    "wm_file",
    "csf_file",
    "dseg_file",
    "to_template_xfm",
    "from_template_xfm",
    "brain_volume_ml",
    "brain_warning",
    "normalization_warning",
    "ready_warning",
]
FRACTIONS = ["gm_file", "wm_file", "csf_file", "dseg_file"]
TRANSFORMS = ["to_template_xfm", "from_template_xfm"]


def init_anatomy_wf(sloppy: bool, name: str = "anatomy_wf") -> Workflow:
    """Build the graph of the 1H anatomy.

    Parameters
    ----------
    sloppy
        Faster and less exact: normalization on a 2 mm grid.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``anat_file`` (whole head, 1H), ``mask_file`` (brain mask to use instead of
        finding one, optional), ``lesion_file`` (part of the brain, left out of metric and
        statistics, optional), ``age`` [years], optional, ``inversion_files`` (beside a UNIT1),
        optional.
        ``outputnode``: ``preproc_file``, ``brain_mask`` (sulci closed), ``inner_mask`` (inside of
        the skull, where the fractions sum to one), ``head_mask``, ``gm_file``, ``wm_file``,
        ``csf_file``, ``dseg_file`` on the grid of ``anat_file``; ``to_template_xfm`` and
        ``from_template_xfm`` (ITK composites); ``brain_volume_ml`` [ml]; ``brain_warning``, empty
        if the volume is plausible and fluid stands out; ``normalization_warning``, empty if the
        overlap is plausible; ``ready_warning``, open unless something ready-made takes a step's
        place.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    source = Node(IdentityInterface(INPUTS, mandatory_inputs=False), name="inputnode")
    result = Node(IdentityInterface(OUTPUTS), name="outputnode")
    clean = Node(RemoveBackground(), name="clean")
    level = Node(BiasCorrect(sloppy=True), name="level")
    extract = Node(BrainExtract(), name="extract")
    correct = Node(BiasCorrect(sloppy=sloppy), name="correct")
    head = Node(HeadMask(), name="head")
    normalize = Node(Normalize(sloppy=sloppy), name="normalize")
    fractions = Node(TissueFractions(), name="fractions")
    workflow.connect(
        [
            (source, clean, [("anat_file", "in_file"), ("inversion_files", "inversion_files")]),
            (clean, level, [("out_file", "in_file")]),
            (source, extract, [(p, p) for p in ("mask_file", "lesion_file", "age")]),
            (level, extract, [("out_file", "in_file")]),
            (clean, correct, [("out_file", "in_file")]),
            (extract, correct, [("inner_mask", "mask_file")]),
            (level, head, [("out_file", "in_file")]),
            (extract, head, [("inner_mask", "mask_file")]),
            (source, normalize, [("lesion_file", "lesion_file")]),
            (correct, normalize, [("out_file", "in_file")]),
            (extract, normalize, [("inner_mask", "mask_file")]),
            (source, fractions, [("lesion_file", "lesion_file")]),
            (correct, fractions, [("out_file", "in_file")]),
            (extract, fractions, [("inner_mask", "mask_file"), ("warning", "brain_warning")]),
            (normalize, fractions, [("from_template_xfm", "from_template_xfm")]),
            (correct, result, [("out_file", "preproc_file")]),
            (
                extract,
                result,
                [
                    ("mask_file", "brain_mask"),
                    ("inner_mask", "inner_mask"),
                    ("brain_volume_ml", "brain_volume_ml"),
                ],
            ),
            (head, result, [("head_mask_file", "head_mask")]),
            (normalize, result, [(port, port) for port in TRANSFORMS]),
            (normalize, result, [("warning", "normalization_warning")]),
            (fractions, result, [(port, port) for port in FRACTIONS]),
            (fractions, result, [("warning", "brain_warning")]),
        ]
    )
    return workflow


DESCRIPTION = (
    "The 1H image (the noise around a uniform image removed first) was corrected for its bias "
    "field (N4), the brain was extracted by registering a "
    "synthetic head around the MNI152 template brain, volume fractions of grey matter, white "
    "matter and cerebrospinal fluid were estimated with a partial-volume mixture model, and the "
    "brain was normalized to the MNI152 template (SyN), all with ANTs."
)
