"""The sodium image in the space of the anatomy."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.registration import RegisterSodium

INPUTS = ["sodium_file", "gm_file", "wm_file", "csf_file", "head_mask", "properties"]
OUTPUTS = ["xfm_file", "properties"]
DESCRIPTION = (
    "The sodium image was registered rigidly (ANTs) to a synthetic sodium image made from the "
    "tissue fractions, the point-spread function and expected concentrations, from several "
    "starts; the candidate with the highest correlation was taken."
)


def init_register_wf(given_xfm: str, sloppy: bool, name: str = "register_wf") -> Workflow:
    """Build the graph of the registration.

    Parameters
    ----------
    given_xfm
        A transform to take instead of registering; empty for none.
    sloppy
        Fewer restarts.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``sodium_file`` [signal], fractions ``gm_file``, ``wm_file``, ``csf_file``,
        ``head_mask``, ``properties``. ``outputnode``: ``xfm_file`` (ITK text, points of the
        anatomy to points of sodium), ``properties`` with candidates, score and spread [mm].
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    source = Node(IdentityInterface(INPUTS), name="inputnode")
    given = {"given_xfm": given_xfm} if given_xfm else {}
    register = Node(RegisterSodium(sloppy=sloppy, **given), name="register", mem_gb=1.0)
    result = Node(IdentityInterface(OUTPUTS), name="outputnode")
    workflow.connect([
        (source, register, [(port, port) for port in INPUTS]),
        (register, result, [(port, port) for port in OUTPUTS]),
    ])  # fmt: skip
    return workflow
