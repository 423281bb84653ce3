"""The sodium image in the space of the anatomy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.registration import RegisterSodium

FRACTIONS = ["gm_file", "wm_file", "csf_file"]
INPUTS = ["sodium_file", *FRACTIONS, "head_mask", "anat_file", "properties"]
OUTPUTS = ["xfm_file", "properties"]
SYNTHETIC = (
    "what it should show (tissue fractions blurred by the point-spread function, times a smooth "
    "receive field) was fitted with robust weights"
)
ERROR = "The error was estimated by restarts on resampled data."
DESCRIPTIONS = {
    "given": "The position of the sodium image was given.",
    "auto": f"For the position of the sodium image, {SYNTHETIC} from several starts; this pose "
    "competed with those of mutual information with the 1H image (ANTs), through a 1H image of "
    "the same coil where there was one, and of the header. The pose that explained the image best "
    "was taken, the fitted one where it did so nearly as well.",
    "header": f"For the position of the sodium image, {SYNTHETIC} from the header's position, "
    "which was kept where it explained the image better.",
    "synthetic": f"For the position of the sodium image, {SYNTHETIC} from several starts.",
    "mi": "The sodium image was registered to the 1H image by mutual information (ANTs).",
    "coil": "The sodium image took the position of a 1H image of the same coil and session, "
    "registered to the anatomy by mutual information (ANTs).",
}
KINDS = {6: "The registration was rigid.", 12: "The registration was affine."}


def init_register_wf(
    given_xfm: str, sloppy: bool, options: Mapping[str, Any], name: str = "register_wf"
) -> Workflow:
    """Build the graph of the registration.

    Parameters
    ----------
    given_xfm
        A transform to take instead of registering; empty for none.
    sloppy
        Fewer starts.
    options
        ``method``, ``dof``, ``random_seed`` and ``coil_file`` of the interface, as far as chosen.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``sodium_file`` [signal], fractions ``gm_file``, ``wm_file``, ``csf_file``,
        ``head_mask``, ``anat_file``, ``properties``. ``outputnode``: ``xfm_file`` (ITK text,
        points of the anatomy to points of sodium), ``properties`` with candidates, score and
        error [mm].
    """
    workflow = Workflow(name=name)
    method = options.get("method", "auto")
    taken = "given" if given_xfm and method == "auto" else method
    kind = "" if taken == "given" else KINDS[options.get("dof", 6)] + " "
    workflow.__desc__ = f"{DESCRIPTIONS[taken]} {kind}{ERROR}"
    source = Node(IdentityInterface(INPUTS), name="inputnode")
    given = {"given_xfm": given_xfm} if given_xfm else {}
    interface = RegisterSodium(sloppy=sloppy, **given, **options)
    register = Node(interface, name="register")
    result = Node(IdentityInterface(OUTPUTS), name="outputnode")
    workflow.connect([
        (source, register, [(port, port) for port in INPUTS]),
        (register, result, [(port, port) for port in OUTPUTS]),
    ])  # fmt: skip
    return workflow
