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
        Ready-made files: ``preproc``, ``mask``, ``GM``, ``WM``, ``CSF``, ``dseg``.
    lesions
        Lesion masks by class.
    outputs
        Output path of each file by name.
    provenance
        Entries of every sidecar.
    age
        Of the subject [years], None if it is not known.
    inversions
        Magnitudes of the two inversion images beside a UNIT1; empty where there are none.
    """

    image: str
    ready: Mapping[str, str] = field(default_factory=dict)
    lesions: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    age: float | None = None
    inversions: tuple[str, ...] = ()


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
