"""What a graph is built from: plain numbers and paths, decided above, connected here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AnatomyPlan:
    """The 1H anatomy of one subject and session.

    Parameters
    ----------
    image
        Raw 1H image; empty where everything is ready-made.
    ready
        Ready-made files: ``preproc``, ``mask``, ``GM``, ``WM``, ``CSF``, ``dseg``,
        ``posteriors``; ``to_template`` and ``from_template`` of the embedded template, ``to_<s>``
        and ``from_<s>`` of other spaces.
    label_tissues
        Tissue of each label of ``dseg``, where fractions come from it.
    lesions
        Lesion masks by class.
    outputs
        Output path of each file by name.
    provenance
        Entries of every sidecar.
    """

    image: str
    ready: Mapping[str, str] = field(default_factory=dict)
    lesions: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    label_tissues: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SodiumPlan:
    """One sodium image or raw file.

    Parameters
    ----------
    name
        Of the workflow.
    source
        Inputs of the reconstruction's interface.
    is_kspace
        Whether the source is raw data.
    receive
        Inputs of the receive correction: ``array_files`` and ``volume_files``, or ``map_file``.
    regions
        Inputs of the regions: vial labels and their space, lesions.
    given_xfm
        The user's transform; empty to register.
    given_backward
        Whether that transform is from T1w to sodium and has to be turned round.
    tissues
        Relaxation constants by tissue and vial [s].
    protocol
        Echo and repetition time [s], flip angle [rad].
    reference
        "vials" or "csf".
    vials
        Known concentrations [mmol/L], in the order of their labels.
    outputs
        Output path of each file by name.
    provenance
        Entries of every sidecar.
    sodium_only
        Whether there is no anatomy: apparent concentrations in sodium space, no more.
    nonlinear
        ``method``, ``source`` and ``outputs`` of a second reconstruction; empty for none.
    """

    name: str
    source: Mapping[str, Any]
    is_kspace: bool
    receive: Mapping[str, Any]
    regions: Mapping[str, Any]
    given_xfm: str
    tissues: Mapping[str, Mapping[str, Any]]
    protocol: Mapping[str, float]
    reference: str
    vials: tuple[Mapping[str, Any], ...]
    outputs: Mapping[str, str]
    provenance: Mapping[str, Any]
    nonlinear: Mapping[str, Any] = field(default_factory=dict)
    given_backward: bool = False
    sodium_only: bool = False
