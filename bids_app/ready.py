"""What lies ready-made in derivatives folders: anatomy, lesions, vial labels, transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sodiumprep.bids_app.index import ANATOMY_ORDER, RawFile, check_image, same_label
from sodiumprep.bids_app.metadata import SODIUM, UserError
from sodiumprep.bids_app.names import acquisition_label, entities, stem, suffix

NO_LESION = ("brain", "head", "vials", "ribbon", "cortex", "air", "background", "eyes", "valid")


@dataclass(frozen=True)
class Ready:
    """The ``-d`` files of one subject and session.

    Parameters
    ----------
    paths
        In order of preference.
    """

    paths: tuple[Path, ...]

    def find(self, accept: Callable[[Path, Mapping[str, str]], bool]) -> list[Path]:
        """Return the files that ``accept``, given path and entities, in their order."""
        return [path for path in self.paths if accept(path, entities(path))]


def check_derivatives(derivatives: Mapping[str, Path]) -> None:
    """Refuse folders that hold the truth of a simulation, or no subject.

    Raises
    ------
    UserError
        If a folder is such a one.
    """
    for name, root in derivatives.items():
        depths = ("", "sub-*/", "sub-*/anat/", "sub-*/ses-*/anat/")
        truth = next(
            (path for depth in depths for path in root.glob(f"{depth}*desc-truth*")), None
        )
        if truth is not None:
            raise UserError(
                f"--derivatives {name}={root}: holds the truth of a simulation ({truth.name}), "
                "which no processing may see"
            )
        if next(root.glob("sub-*"), None) is None:
            raise UserError(f"--derivatives {name}={root}: has no sub-<label> in it")


def ready_files(
    derivatives: Mapping[str, Path], subject: str, session: str | None
) -> Iterable[Path]:
    """Yield the files of a subject: folder by folder, of each the session before the subject."""
    for root in derivatives.values():
        base = root / f"sub-{subject}"
        folders = [base / f"ses-{session}" / "anat"] if session else []
        for folder in [*folders, base / "anat"]:
            yield from sorted(path for path in folder.glob("*") if path.is_file())


def ready_anatomy(ready: Ready) -> dict[str, Path]:
    """Return what is there of ``preproc mask GM WM CSF dseg dseg_tsv``.

    GM, WM and CSF come from one folder or not at all.
    """
    images = ready.find(
        lambda path, parts: (
            path.name.endswith((".nii", ".nii.gz"))
            and parts.get("space", "T1w") == "T1w"
            and SODIUM not in parts.get("acq", "")
        )
    )
    rules: dict[str, Callable[[Path, Mapping[str, str]], bool]] = {
        "preproc": lambda path, parts: (
            parts.get("desc") == "preproc" and suffix(path) in ANATOMY_ORDER
        ),
        "mask": lambda path, parts: (
            suffix(path) == "mask" and "brain" in (parts.get("desc"), parts.get("label"))
        ),
        "dseg": lambda path, parts: suffix(path) == "dseg" and parts.get("desc") != "vials",
    }
    found = {}
    for key, rule in rules.items():
        matches = [path for path in images if rule(path, entities(path))]
        if matches:
            found[key] = min(matches, key=_ready_rank)
    return {**found, **_ready_fractions(images), **_dseg_table(found.get("dseg"))}


def find_lesions(session: str | None, files: Sequence[RawFile], ready: Ready) -> dict[str, Path]:
    """Return the lesion masks by name, of derivatives and of the raw dataset.

    Raises
    ------
    UserError
        If one of them cannot be read.
    """
    lesions: dict[str, Path] = {}
    for path in ready.find(_is_lesion):
        parts = entities(path)
        lesions.setdefault(parts.get("label") or parts["desc"], path)
    for file in files:
        here = file.parts.get("ses") in (session, None) and file.datatype == "anat"
        if here and file.suffix == "roi" and file.parts.get("label") == "lesion":
            lesions.setdefault("lesion", file.path)
    for path in lesions.values():
        check_image(path)
    return dict(sorted(lesions.items()))


def find_vial_labels(source: RawFile, ready: Ready) -> tuple[Path | None, str | None]:
    """Return the label image of the vials beside a sodium image, and the space it lies in.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    matches = ready.find(
        lambda path, parts: (
            suffix(path) == "dseg"
            and parts.get("desc") == "vials"
            and path.name.endswith((".nii", ".nii.gz"))
            and parts.get("space", "T1w") == "T1w"
            and _belongs(parts, source)
        )
    )
    if not matches:
        return None, None
    best = min(matches, key=lambda path: (_strangeness(path, source), "space" in entities(path)))
    check_image(best)
    return best, "T1w" if "space" in entities(best) else "sodium"


def find_transform(source: RawFile, ready: Ready) -> Path | None:
    """Return the user's sodium-to-T1w transform of a sodium image.

    Raises
    ------
    UserError
        If it is one of the other direction, or of a kind that cannot be linear.
    """
    matches = ready.find(
        lambda path, parts: (
            suffix(path) == "xfm"
            and {parts.get("from"), parts.get("to")} == {"sodium", "T1w"}
            and path.name.endswith((".txt", ".mat", ".h5", ".nii", ".nii.gz"))
            and _belongs(parts, source)
        )
    )
    right = [path for path in matches if entities(path)["from"] == "sodium"]
    if matches and not right:
        raise UserError(
            f"{matches[0]}: from-T1w_to-sodium is the wrong direction; accepted: "
            "from-sodium_to-T1w, whose points of T1w space are mapped to sodium space"
        )
    matches = [path for path in right if not path.name.endswith((".nii", ".nii.gz"))]
    if right and not matches:
        raise UserError(
            f"{right[0]}: a displacement field; accepted: a linear transform, ITK text (.txt), "
            ".mat or .h5"
        )
    return min(matches, key=lambda path: _strangeness(path, source), default=None)


def _ready_rank(path: Path) -> tuple[int, bool]:
    order = ANATOMY_ORDER.index(suffix(path)) if suffix(path) in ANATOMY_ORDER else 0
    return order, suffix(path) == "dseg" and "desc" in entities(path)


def _ready_fractions(images: Sequence[Path]) -> dict[str, Path]:
    # The three must come from one folder: fractions of two spaces do not add up to one.
    for folder in dict.fromkeys(path.parent for path in images):
        here = {
            entities(path).get("label"): path
            for path in images
            if path.parent == folder and suffix(path) == "probseg"
        }
        if {"GM", "WM", "CSF"} <= set(here):
            return {label: here[label] for label in ("GM", "WM", "CSF")}
    return {}


def _dseg_table(dseg: Path | None) -> dict[str, Path]:
    if dseg is None:
        return {}
    desc = entities(dseg).get("desc")
    name = f"desc-{desc}_dseg.tsv" if desc else "dseg.tsv"
    root = next(folder for folder in dseg.parents if not folder.name.startswith(("anat", "ses-")))
    tables = (dseg.with_name(stem(dseg) + ".tsv"), root.parent / name)
    return next(({"dseg_tsv": table} for table in tables if table.exists()), {})


def _is_lesion(path: Path, parts: Mapping[str, str]) -> bool:
    name = parts.get("label") or parts.get("desc")
    tissue = name in ("GM", "WM", "CSF") or name in NO_LESION
    return (
        path.name.endswith((".nii", ".nii.gz"))
        and suffix(path) == "mask"
        and name is not None
        and not tissue
        and "hemi" not in parts
        and parts.get("space", "T1w") == "T1w"
    )


def _belongs(parts: Mapping[str, str], source: RawFile) -> bool:
    own = source.parts
    same = all(
        key not in parts or same_label(parts[key], own.get(key, "")) for key in ("ses", "run")
    )
    return same and parts.get("acq", SODIUM) in (SODIUM, own.get("acq"), acquisition_label(own))


def _strangeness(path: Path, source: RawFile) -> int:
    parts = entities(path)
    return sum(parts.get(key) != source.parts.get(key) for key in ("ses", "acq", "run"))
