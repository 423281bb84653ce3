"""What a graph is built from: plain numbers and paths, decided above, connected here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sodiumprep.sodium.relaxation import VITREOUS

SHELLS, CONTRALATERAL, LESIONS = "shells", "contralateral", "lesions"  # tables of lesions


@dataclass(frozen=True)
class Size:
    """How much a graph has to deal with; what memory it needs follows from that.

    Parameters
    ----------
    anatomy
        Voxels of the 1H image.
    sodium
        Voxels of the sodium image.
    samples
        Of raw data, all readouts and repetitions of one coil; 0 for an image.
    coils
        Receive coils of raw data.
    """

    anatomy: int = 256 * 256 * 192
    sodium: int = 64**3
    samples: int = 0
    coils: int = 1


@dataclass(frozen=True)
class SessionPlan:
    """What is saved of one session that lies on an anatomy which sessions share.

    Parameters
    ----------
    name
        Of its nodes: letters, digits, underscores.
    index
        Of its 1H image in ``ReferencePlan.images``.
    lesions
        Masks by class.
    spaces
        Index of the image in whose space each mask lies, -1 for that of the reference.
    outputs
        Output path of ``xfm`` and of ``lesion_<class>``.
    provenance
        Entries of every sidecar.
    """

    name: str
    index: int
    lesions: Mapping[str, str]
    spaces: Mapping[str, int]
    outputs: Mapping[str, str]
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class ReferencePlan:
    """The anatomical reference that the sessions of a subject share.

    Parameters
    ----------
    images
        1H image of each session.
    builds_template
        Whether their mean is the reference.
    reference_index
        Of the image that is the reference itself, -1 for none.
    excluded
        Lesion masks of all sessions, by any name, that a template's segmentation leaves out.
    excluded_spaces
        Index of the image in whose space each of them lies.
    sessions
        What is saved of each.
    """

    images: tuple[str, ...]
    builds_template: bool
    reference_index: int = -1
    excluded: Mapping[str, str] = field(default_factory=dict)
    excluded_spaces: Mapping[str, int] = field(default_factory=dict)
    sessions: tuple[SessionPlan, ...] = ()


@dataclass(frozen=True)
class TemplatePlan:
    """A template that the anatomy is normalized to.

    Parameters
    ----------
    name
        Of template and cohort, as ``MNIInfant+2``.
    image, mask
        T1w image and brain mask; empty for the embedded template.
    outputs
        Output path of ``to_template_xfm`` and ``from_template_xfm``.
    provenance
        Entries of their sidecars.
    """

    name: str
    image: str = ""
    mask: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SpacePlan:
    """A grid of a template that maps are resampled to.

    Parameters
    ----------
    name
        Of the space, its cohort and resolution; letters, digits and underscores.
    template
        Name of the :class:`TemplatePlan`.
    grid
        Image that has the grid; empty for the embedded template.
    resolution
        Voxel edge of the embedded template [mm].
    outputs
        Output path of each map by name.
    corrected
        Of each map of a partial-volume correction, as ``rbv:corrected_file``.
    provenance
        Entries of their sidecars.
    """

    name: str
    template: str
    grid: str = ""
    resolution: int = 1
    outputs: Mapping[str, str] = field(default_factory=dict)
    corrected: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AtlasPlan:
    """Regions that a table is made of.

    Parameters
    ----------
    name
        As ``seg-`` says it: letters and digits.
    names
        Of the labels.
    tissues
        GM, WM or CSF of those labels that say it.
    image
        Label image; empty for a built-in atlas.
    template
        Name of the :class:`TemplatePlan` in whose space it lies; empty for the anatomy's.
    outputs
        Of the anatomy: paths of ``labels`` and ``table``. Of a run: ``table_file``.
    provenance
        Entries of the sidecars, beside those of anatomy or run.
    least_coverage
        Share of a region in the field of view below which it has no value.
    """

    name: str
    names: Mapping[int, str]
    tissues: Mapping[int, str]
    image: str = ""
    template: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    least_coverage: float = 0.0


@dataclass(frozen=True)
class LesionPlan:
    """Tables that the lesions of a run give.

    Parameters
    ----------
    classes
        Of the lesions.
    tables
        Which: ``contralateral``, ``shells``, ``lesions``.
    edges
        Outer distance of each shell around lesions [mm].
    least_coverage
        Share of a region in the field of view below which it has no value.
    outputs
        Path of each table by its name, and of labels and of their names as
        ``contralateral_labels`` and ``contralateral_table``.
    provenance
        Entries of the sidecars of labels.
    labels
        BIDS URI of the labels by table.
    """

    classes: tuple[str, ...]
    tables: tuple[str, ...]
    edges: tuple[float, ...] = ()
    least_coverage: float = 0.0
    outputs: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


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
    reference
        What sessions share, None for one session.
    templates
        What the anatomy is normalized to, for maps.
    transforms
        Ready-made transforms that resample the anatomy to a template, by the template's name;
        nothing is registered to those.
    age
        Of the subject [years], None if it is not known.
    inversions
        Magnitudes of the two inversion images beside a UNIT1; empty where there are none.
    atlases
        Label images that are brought to the anatomy.
    backward
        Ready-made transforms that resample a template to the anatomy, by the template's name.
    size
        Of the 1H image.
    """

    image: str
    ready: Mapping[str, str] = field(default_factory=dict)
    lesions: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    label_tissues: Mapping[int, str] = field(default_factory=dict)
    reference: ReferencePlan | None = None
    templates: tuple[TemplatePlan, ...] = ()
    transforms: Mapping[str, str] = field(default_factory=dict)
    age: float | None = None
    inversions: tuple[str, ...] = ()
    atlases: tuple[AtlasPlan, ...] = ()
    backward: Mapping[str, str] = field(default_factory=dict)
    size: Size = Size()


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
        Inputs of the receive correction: ``array_files`` and ``volume_files``, or ``map_file``, or
        by reciprocity ``transmit_map_file`` or ``angle_files`` with what belongs to them.
    transmit
        Inputs of the transmit correction: ``map_file`` and ``units``, or ``angle_files`` with
        ``flip_angle`` and ``repetition_time``; empty for none.
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
        "vials", "csf", "vitreous" or "phantom"; with a search for vials, what is wanted.
    vials
        Known concentrations [mmol/L], in the order of their labels.
    outputs
        Output path of each file by name.
    provenance
        Entries of every sidecar.
    vial_search
        ``direction`` and ``required`` of the search for vials, as far as stated; None where
        nothing is searched.
    sodium_only
        Whether there is no anatomy: apparent concentrations in sodium space, no more.
    nonlinear
        ``method``, ``source`` and ``outputs`` of a second reconstruction; empty for none.
    moved
        Index of the 1H image along with which ``sodium`` and ``vials`` move to the anatomy that
        sessions share; a name that is absent is not moved.
    lesion_spaces
        Index of the 1H image in whose space each lesion mask lies, -1 for the anatomy's; empty
        where all lie there.
    spaces
        Grids of templates that the maps are resampled to.
    registration
        ``method``, ``dof``, ``random_seed`` and ``coil_file``, as far as chosen.
    pvc
        ``methods`` that have rows in the table, beside none; ``feed``, ``sensitivity`` and
        ``random_seed`` of the interface, as far as chosen.
    map_outputs
        Output path of each corrected map, as ``rbv:corrected_file``; empty where no method
        makes one.
    assumed
        Concentration and standard uncertainty [mmol/L] of the fluids that may be references;
        empty for the usual ones.
    phantom
        A phantom scanned by itself: ``source`` of its image, which is raw data where that of the
        head is, ``own_protocol``, ``constants`` [s], ``known`` (concentrations [mmol/L], loading)
        and ``needed``, as :class:`~sodiumprep.interfaces.replacement.MeasurePhantom` takes them;
        empty for none.
    uncertainty
        ``monte_carlo`` (draws) and ``random_seed`` of the table, as far as chosen.
    force
        Whether a poor line through vials calibrates as well.
    atlases
        Whose regions have tables of their own.
    surroundings
        Tables that lesions give; None without lesions.
    size
        Of the sodium data and the anatomy.
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
    transmit: Mapping[str, Any] = field(default_factory=dict)
    nonlinear: Mapping[str, Any] = field(default_factory=dict)
    given_backward: bool = False
    vial_search: Mapping[str, Any] | None = None
    sodium_only: bool = False
    moved: Mapping[str, int] = field(default_factory=dict)
    lesion_spaces: Mapping[str, int] = field(default_factory=dict)
    spaces: tuple[SpacePlan, ...] = ()
    registration: Mapping[str, Any] = field(default_factory=dict)
    pvc: Mapping[str, Any] = field(default_factory=lambda: {"methods": ["gtm"]})
    map_outputs: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    phantom: Mapping[str, Any] = field(default_factory=dict)
    uncertainty: Mapping[str, int] = field(default_factory=dict)
    force: bool = False
    atlases: tuple[AtlasPlan, ...] = ()
    surroundings: LesionPlan | None = None
    size: Size = Size()

    @property
    def kernel_tissues(self) -> dict[str, Mapping[str, Any]]:
        """Constants of what has a kernel of its own; the vitreous humour has that of CSF."""
        return {name: known for name, known in self.tissues.items() if name != VITREOUS}
