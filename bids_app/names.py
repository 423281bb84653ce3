"""Every file name that is written, and the grammar of those that are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

SODIUM_LABEL = "23Na"
BIDSIGNORE = """\
*.html
logs
**/figures
group
group_*
*_TSCmap.*
*_TSC.*
*_metrics.json
*_xfm.*
*_stat-*
*_RB1map.*
*_TB1map.*
"""
_ENTITY = re.compile(r"(?:^|_)([a-zA-Z]+)-([a-zA-Z0-9+]+)(?=_|$)")


def stem(path: Path | str) -> str:
    """Return a file name without its folder and extension.

    Examples
    --------
    >>> stem("anat/sub-01_acq-23Na_PDw.nii.gz")
    'sub-01_acq-23Na_PDw'
    """
    return Path(path).name.split(".", 1)[0]


def extension(path: Path | str) -> str:
    """Return what follows the first dot of a file name, dot included.

    Examples
    --------
    >>> extension("anat/sub-01_acq-23Na_PDw.nii.gz")
    '.nii.gz'
    """
    return Path(path).name.removeprefix(stem(path))


def suffix(path: Path | str) -> str:
    """Return the last part of a BIDS name.

    Examples
    --------
    >>> suffix("sub-01_acq-23Na_PDw.nii.gz")
    'PDw'
    """
    return stem(path).rsplit("_", 1)[-1]


def entities(path: Path | str) -> dict[str, str]:
    """Return the entities of a BIDS name under their short keys, as text.

    Examples
    --------
    >>> entities("sub-01_acq-23Na_run-02_PDw.nii.gz")
    {'sub': '01', 'acq': '23Na', 'run': '02'}
    """
    return dict(_ENTITY.findall(stem(path)))


@dataclass(frozen=True)
class DerivativeNames:
    """Paths of everything that one subject, session and sodium run leaves behind.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    subject, session, run
        Labels without their keys; session and run None where the input has none.
    rec
        Reconstruction method, None for the default one.
    acquisition
        Label of the sodium acquisition; begins with ``23Na``.
    anat_suffix
        Suffix of the 1H image that served as anatomy.
    shared_anatomy
        Whether the anatomy is that of the subject, shared by its sessions.

    Examples
    --------
    >>> names = DerivativeNames(Path("out"), "01", run="2")
    >>> names.tsc_map("corrected", space="T1w").name
    'sub-01_acq-23Na_run-2_space-T1w_desc-corrected_TSCmap.nii.gz'
    """

    out_dir: Path
    subject: str
    session: str | None = None
    run: str | None = None
    rec: str | None = None
    acquisition: str = SODIUM_LABEL
    anat_suffix: str = "T1w"
    shared_anatomy: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the images and tables."""
        session = [f"ses-{self.session}"] if self.session else []
        return self.out_dir.joinpath(f"sub-{self.subject}", *session, "anat")

    @property
    def prefix(self) -> str:
        """Begin of every name of the session."""
        return _joined(sub=self.subject, ses=self.session)

    @property
    def anat_folder(self) -> Path:
        """Folder of the anatomy: that of the subject where its sessions share one."""
        return replace(self, session=None).folder if self.shared_anatomy else self.folder

    @property
    def anat_prefix(self) -> str:
        """Begin of every anatomical name."""
        return _joined(sub=self.subject, ses=None if self.shared_anatomy else self.session)

    @property
    def sodium_prefix(self) -> str:
        """Begin of every sodium name."""
        return _joined(
            sub=self.subject,
            ses=self.session,
            acq=self.acquisition,
            rec=self.rec,
            run=self.run,
        )

    def anat_preproc(self) -> Path:
        """Path of the corrected 1H image."""
        return self._anat(f"desc-preproc_{self.anat_suffix}")

    def brain_mask(self) -> Path:
        """Path of the brain mask."""
        return self._anat("desc-brain_mask")

    def dseg(self) -> Path:
        """Path of the tissue labels."""
        return self._anat("dseg")

    def probseg(self, label: str) -> Path:
        """Path of the fraction of one tissue."""
        return self._anat(f"label-{label}_probseg")

    def atlas_labels(self, name: str, extension: str = ".nii.gz") -> Path:
        """Path of the labels of an atlas on the anatomy, or of the table of their names."""
        return self._anat(f"seg-{name}_dseg", extension)

    def lesion_labels(self, name: str, extension: str = ".nii.gz") -> Path:
        """Path of the labels that lesions give of one run, or of the table of their names."""
        return self._sodium("dseg", extension, space="T1w", seg=name)

    def lesion_mask(self, name: str) -> Path:
        """Path of the mask of one lesion class."""
        return self._anat(f"label-{name}_mask")

    def session_lesion_mask(self, name: str) -> Path:
        """Path of a session's mask of one lesion class, on the anatomy that sessions share."""
        return self.folder / f"{self.prefix}_space-T1w_label-{name}_mask.nii.gz"

    def session_transform(self) -> Path:
        """Path of the ITK text that maps points of the shared anatomy to the session's."""
        return self.folder / f"{self.prefix}_from-orig_to-{self.anat_suffix}_mode-image_xfm.txt"

    def template_transform(self, template: str, extension: str = ".h5") -> Path:
        """Path of the transform that maps points of the template to the anatomy."""
        return self._anat(f"from-{self.anat_suffix}_to-{template}_mode-image_xfm", extension)

    def inverse_template_transform(self, template: str, extension: str = ".h5") -> Path:
        """Path of the transform that maps points of the anatomy to the template."""
        return self._anat(f"from-{template}_to-{self.anat_suffix}_mode-image_xfm", extension)

    def anat_in_template(self, template: str) -> Path:
        """Path of the 1H image on the template's grid."""
        return self._anat(f"space-{template}_desc-preproc_{self.anat_suffix}")

    def sodium_preproc(self, stat: str | None = None, space: str | None = None) -> Path:
        """Path of the reconstructed sodium image, or of its noise SD with ``stat='noise'``."""
        return self._sodium("PDw", space=space, stat=stat, desc="preproc")

    def receive_field(self, stat: str | None = None) -> Path:
        """Path of the receive correction; its uncertainty with ``stat='uncertainty'``."""
        return self._sodium("RB1map", stat=stat, desc="receive")

    def transmit_field(self) -> Path:
        """Path of the flip angle over nominal that was corrected for [percent]."""
        return self._sodium("TB1map", desc="transmit")

    def sodium_transform(self) -> Path:
        """Path of the ITK text that maps points of T1w space to sodium space."""
        return self._sodium("xfm", ".txt", **{"from": "sodium", "to": "T1w", "mode": "image"})

    def tsc_map(
        self,
        desc: str,
        space: str | None = None,
        stat: str | None = None,
        pvc: str | None = None,
        cohort: str | None = None,
        resolution: str | None = None,
    ) -> Path:
        """Path of a concentration map [mmol/L]; no space means the sodium grid."""
        place = {"space": space, "cohort": cohort, "res": resolution}
        return self._sodium("TSCmap", **place, pvc=pvc, stat=stat, desc=desc)

    def tsc_table(self, segmentation: str = "tissue") -> Path:
        """Path of the regional table."""
        return self._sodium("TSC", ".tsv", seg=segmentation)

    def tsc_dictionary(self, segmentation: str = "tissue") -> Path:
        """Path of the data dictionary of the regional table."""
        return self._sodium("TSC", ".json", seg=segmentation)

    def qc(self) -> Path:
        """Path of the quality figures."""
        return self._sodium("metrics", ".json", desc="qc")

    def report(self) -> Path:
        """Path of the report of the subject, or of the session."""
        return self.out_dir / f"{self.prefix}.html"

    def figures_dir(self) -> Path:
        """Folder of the report's figures."""
        return self.out_dir / f"sub-{self.subject}" / "figures"

    def anat_figure(self, desc: str, extension: str = ".svg") -> Path:
        """Path of a figure of the anatomy."""
        return self.figures_dir() / f"{self.prefix}_desc-{desc}_{self.anat_suffix}{extension}"

    def sodium_figure(self, desc: str, extension: str = ".svg") -> Path:
        """Path of a figure of one sodium run."""
        return self.figures_dir() / f"{self.sodium_prefix}_desc-{desc}_PDw{extension}"

    def _anat(self, ending: str, extension: str = ".nii.gz") -> Path:
        return self.anat_folder / f"{self.anat_prefix}_{ending}{extension}"

    def _sodium(self, ending: str, extension: str = ".nii.gz", **parts: str | None) -> Path:
        middle = "".join(f"_{key}-{value}" for key, value in parts.items() if value)
        return self.folder / f"{self.sodium_prefix}{middle}_{ending}{extension}"


@dataclass(frozen=True)
class DatasetNames:
    """Paths of what belongs to the whole output.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    """

    out_dir: Path

    @property
    def description(self) -> Path:
        """Path of the dataset description."""
        return self.out_dir / "dataset_description.json"

    @property
    def bidsignore(self) -> Path:
        """Path of the list of what the validator shall pass over."""
        return self.out_dir / ".bidsignore"

    @property
    def logs(self) -> Path:
        """Folder of citations, records of runs, crash files and the graph."""
        return self.out_dir / "logs"

    @property
    def citation_md(self) -> Path:
        """Path of the methods text."""
        return self.logs / "CITATION.md"

    @property
    def citation_bib(self) -> Path:
        """Path of its references."""
        return self.logs / "CITATION.bib"

    @property
    def group_table(self) -> Path:
        """Path of all regional tables in one."""
        return self.out_dir / "group_TSC.tsv"

    @property
    def group_parquet(self) -> Path:
        """Path of the same for programs: numbers as numbers, columns read one by one."""
        return self.out_dir / "group_TSC.parquet"

    @property
    def group_qc(self) -> Path:
        """Path of all quality figures in one."""
        return self.out_dir / "group_qc.tsv"

    @property
    def group_report(self) -> Path:
        """Path of the cohort's report."""
        return self.out_dir / "group.html"

    @property
    def group_dir(self) -> Path:
        """Folder of what else the cohort level leaves."""
        return self.out_dir / "group"

    def group_result(self, name: str) -> Path:
        """Return the path of a table of the cohort level.

        Parameters
        ----------
        name
            Such as ``effects``.
        """
        return self.group_dir / f"{name}.tsv"

    def group_map(self, stat: str, ending: str = "TSCmap", **place: str) -> Path:
        """Return the path of a map of the cohort level.

        Parameters
        ----------
        stat
            Such as ``mean``.
        ending
            Suffix.
        place
            ``space``, ``cohort``, ``res``, ``group``, ``contrast``, ``pvc``; empty ones are left
            out, and of each what no label may hold.

        Examples
        --------
        >>> DatasetNames(Path()).group_map("mean", space="MNI305", group="a b").name
        'space-MNI305_group-ab_stat-mean_TSCmap.nii.gz'
        """
        labels = {key: re.sub("[^a-zA-Z0-9]", "", text) for key, text in place.items()}
        return self.group_dir / f"{_joined(**labels, stat=stat)}_{ending}.nii.gz"

    @property
    def group_model(self) -> Path:
        """Path of the model that the cohort level used, complete."""
        return self.group_dir / "model.json"

    @property
    def participants(self) -> Path:
        """Path of the copy of the raw participants table."""
        return self.out_dir / "participants.tsv"


def with_json(path: Path) -> Path:
    """Return the path of a file's sidecar.

    Examples
    --------
    >>> with_json(Path("a_T1w.nii.gz")).name
    'a_T1w.json'
    """
    return path.with_name(stem(path) + ".json")


def acquisition_label(parts: Mapping[str, str]) -> str:
    """Return the ``acq-`` label of a run's outputs, which always begins with ``23Na``.

    Examples
    --------
    >>> acquisition_label({"acq": "23NaTPI"}), acquisition_label({"nuc": "23Na", "acq": "tpi"})
    ('23NaTPI', '23Natpi')
    """
    label = parts.get("acq", "")
    return label if label.startswith(SODIUM_LABEL) else SODIUM_LABEL + label


def bids_uri(path: Path, links: Mapping[str, Path]) -> str:
    """Return the BIDS URI of a file in one of the linked datasets, else its plain path.

    Parameters
    ----------
    path
        The file.
    links
        Root folder of each dataset under the name that ``DatasetLinks`` gives it; the empty
        name is the output itself.

    Examples
    --------
    >>> bids_uri(Path("/data/sub-01/anat/a.nii.gz"), {"raw": Path("/data")})
    'bids:raw:sub-01/anat/a.nii.gz'
    """
    holding = [name for name, root in links.items() if path.is_relative_to(root)]
    if not holding:
        return str(path)
    name = max(holding, key=lambda candidate: len(links[candidate].parts))
    return f"bids:{name}:{path.relative_to(links[name]).as_posix()}"


def _joined(**parts: str | None) -> str:
    return "_".join(f"{key}-{value}" for key, value in parts.items() if value)
