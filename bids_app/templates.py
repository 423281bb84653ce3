"""Output spaces: their names, the files of templates, and the cohort that fits an age.

A template lies as TemplateFlow has it, ``tpl-<name>[/cohort-<n>]/tpl-<name>…_T1w.nii.gz`` with a
``desc-brain_mask``, under ``TEMPLATEFLOW_HOME``. These files are read as they are; the package
templateflow is loaded only to fetch what is missing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.ages import age_of, per_year_of
from sodiumprep.bids_app.caches import home_of
from sodiumprep.bids_app.metadata import UserError, read_json
from sodiumprep.bids_app.names import entities, suffix

EMBEDDED = "MNI152NLin2009aSym"  # nilearn's: its file is mni_icbm152_t1_tal_nlin_sym_09a
ANATOMY = ("T1w", "anat")  # space of the 1H image; always there, as the sodium grid is
AUTO = "auto"
EMBEDDED_RESOLUTIONS = tuple(str(edge) for edge in range(1, 6))  # mm
HOME = "TEMPLATEFLOW_HOME"
KNOWN = (  # human heads of TemplateFlow with a T1w image and a brain mask
    "MNI152Lin", "MNI152NLin2009aAsym", "MNI152NLin2009cAsym", "MNI152NLin2009cSym",
    "MNI152NLin6Asym", "MNI152NLin6Sym", "MNI305", "MNIInfant", "MNIPediatricAsym", "NKI",
    "OASIS30ANTs", "PNC",
)  # fmt: skip
COHORT_AGES: Mapping[str, Mapping[str, tuple[float, float]]] = {  # years, as TemplateFlow states
    "MNIPediatricAsym": {
        "1": (4.5, 18.5), "2": (4.5, 8.5), "3": (7.0, 11.0), "4": (7.5, 13.5), "5": (10.0, 14.0),
        "6": (13.0, 18.5),
    },
    "MNIInfant": {
        str(n): (low / 12, high / 12)
        for n, (low, high) in enumerate(
            ((0, 2), (2, 5), (5, 8), (8, 11), (11, 14), (14, 17), (17, 21), (21, 27), (27, 33),
             (33, 44), (44, 60)), start=1)
    },
}  # fmt: skip


@dataclass(frozen=True)
class Space:
    """One space that maps are wanted in.

    Parameters
    ----------
    template
        Name as TemplateFlow has it, without ``tpl-``.
    cohort
        Its number, ``auto`` for the one that fits the age, empty where the template has none.
    resolution
        Index of the grid; empty for the template's first one, without ``res-`` in the names.
    """

    template: str
    cohort: str = ""
    resolution: str = ""

    @property
    def label(self) -> str:
        """Name of template and cohort in transforms, as ``MNIInfant+2``."""
        return f"{self.template}+{self.cohort}" if self.cohort else self.template

    def __str__(self) -> str:
        """Return the space as it is asked for."""
        cohort = f":cohort-{self.cohort}" if self.cohort else ""
        return self.template + cohort + (f":res-{self.resolution}" if self.resolution else "")


@dataclass(frozen=True)
class TemplateFiles:
    """What of a template lies on disk; all empty for the embedded one.

    Parameters
    ----------
    image, mask
        T1w image and brain mask to register.
    grid
        Image on whose grid maps are written.
    """

    image: str = ""
    mask: str = ""
    grid: str = ""


def template_home() -> Path:
    """Return the folder of TemplateFlow."""
    stated = os.environ.get(HOME)
    if stated:
        return Path(stated).expanduser()
    home = home_of(os.environ) or Path("/")  # without a home nothing is stored
    cache = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(cache) / "templateflow"


def read_spaces(given: Iterable[str]) -> tuple[Space, ...]:
    """Return the templates of ``--output-spaces``; the space of the anatomy is always there.

    Parameters
    ----------
    given
        As ``T1w``, ``MNI152NLin2009cAsym:res-2`` or ``MNIPediatricAsym:cohort-auto``.

    Raises
    ------
    UserError
        If a name or a modifier is not known.

    Examples
    --------
    >>> [str(space) for space in read_spaces(["T1w", "MNI152NLin2009aSym:res-1:res-2"])]
    ['MNI152NLin2009aSym:res-1', 'MNI152NLin2009aSym:res-2']
    """
    spaces = [space for text in given for space in _read_space(text)]
    return tuple(dict.fromkeys(spaces))


def _read_space(text: str) -> list[Space]:
    name, *modifiers = text.split(":")
    where = f"--output-spaces {text}"
    if name in ANATOMY:
        if modifiers:
            raise UserError(f"{where}: {name} takes no modifier; its grid is that of the 1H image")
        return []
    known = known_templates()
    if name not in known:
        raise UserError(
            f"{where}: {name} is not known; accepted: {', '.join((*ANATOMY, *known))}, and "
            f"every tpl-<name> in {template_home()}"
        )
    values: dict[str, list[str]] = {"cohort": [], "res": []}
    for modifier in modifiers:
        key, _, value = modifier.partition("-")
        if key not in values or not (value.isdecimal() or (key, value) == ("cohort", AUTO)):
            raise UserError(
                f"{where}: {modifier} is no modifier; accepted: res-<number>, cohort-<number>, "
                f"cohort-{AUTO}"
            )
        values[key].append(value if value == AUTO else str(int(value)))
    cohort = _checked_cohort(where, name, values["cohort"])
    return [Space(name, cohort, res) for res in values["res"] or [""]]


def _checked_cohort(where: str, name: str, given: Sequence[str]) -> str:
    known = known_cohorts(name)
    if not known and given:
        raise UserError(f"{where}: {name} has no cohorts; accepted: {name}[:res-<number>]")
    accepted = f"accepted: {', '.join(f'cohort-{value}' for value in (*known, AUTO))}"
    if known and not given:
        raise UserError(f"{where}: {name} needs a cohort; {accepted}")
    if len(given) > 1 or not {*given} <= {*known, AUTO}:
        shown = " and ".join(f"cohort-{value}" for value in given)
        raise UserError(f"{where}: {name} has no {shown}; {accepted}")
    if given == [AUTO] and not cohort_ages(name):
        raise UserError(f"{where}: the ages of the cohorts of {name} are not known")
    return given[0] if given else ""


def known_templates() -> tuple[str, ...]:
    """Return the names of templates: the embedded one, TemplateFlow's, and those on disk."""
    folders = sorted(path.name[4:] for path in template_home().glob("tpl-*") if path.is_dir())
    own = [name for name in folders if _has_image(template_home() / f"tpl-{name}")]
    return tuple(dict.fromkeys((EMBEDDED, *KNOWN, *own)))


def _has_image(folder: Path) -> bool:
    return any(_lies(path) for path in folder.rglob("*_T1w.nii*"))


def known_cohorts(name: str) -> tuple[str, ...]:
    """Return the cohorts of a template: described, with a folder, or in the built-in table."""
    if name == EMBEDDED:
        return ()
    folders = (template_home() / f"tpl-{name}").glob("cohort-*")
    found = {path.name.removeprefix("cohort-") for path in folders if path.is_dir()}
    known = {*found, *_described(name), *COHORT_AGES.get(name, {})}
    return tuple(sorted(known, key=lambda cohort: (len(cohort), cohort)))


def cohort_ages(name: str) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest age of each cohort [years].

    What ``template_description.json`` states goes before the built-in table.
    """
    ranges = {cohort: _age_range(entry) for cohort, entry in _described(name).items()}
    stated = {cohort: ages for cohort, ages in ranges.items() if ages is not None}
    return stated or dict(COHORT_AGES.get(name, {}))


def _age_range(entry: object) -> tuple[float, float] | None:
    """Return the ages of a described cohort [years]; None where they are not stated in full."""
    held = entry if isinstance(entry, dict) else {}
    ages, per_year = held.get("age"), per_year_of(held.get("units"))
    pair = isinstance(ages, list) and len(ages) == 2
    if per_year is None or not pair or not all(isinstance(age, int | float) for age in ages):
        return None
    return ages[0] / per_year, ages[1] / per_year


def _described(name: str) -> dict[str, Any]:
    path = template_home() / f"tpl-{name}" / "template_description.json"
    if not _lies(path):
        return {}
    content = read_json(path)
    cohorts = content.get("cohort") if isinstance(content, dict) else None
    return cohorts if isinstance(cohorts, dict) else {}


def fitting_cohort(age: float, ranges: Mapping[str, tuple[float, float]]) -> str:
    """Return the cohort for an age: of those that hold it, the one of the nearest middle.

    Parameters
    ----------
    age
        [years].
    ranges
        Lowest and highest age by cohort [years].

    Returns
    -------
    cohort
        Of two equally near ones the narrower; empty if none holds the age.

    Examples
    --------
    >>> [fitting_cohort(age, COHORT_AGES["MNIPediatricAsym"]) for age in (5, 9.2, 12.5, 17, 30)]
    ['2', '3', '5', '6', '']
    """
    holding = {name: (low, high) for name, (low, high) in ranges.items() if low <= age <= high}

    def rank(name: str) -> tuple[float, float]:
        low, high = holding[name]
        return round(abs(age - (low + high) / 2), 9), high - low

    return min(holding, key=rank, default="")


def chosen_space(space: Space, bids_dir: Path, subject: str, session: str | None) -> Space:
    """Return a space with ``cohort-auto`` replaced by the cohort that fits the age.

    Raises
    ------
    UserError
        If the age is not known, or no cohort holds it.
    """
    if space.cohort != AUTO:
        return space
    age, table = age_of(bids_dir, subject, session)
    ranges = cohort_ages(space.template)
    cohort = fitting_cohort(age, ranges)
    if not cohort:
        lowest, highest = min(r[0] for r in ranges.values()), max(r[1] for r in ranges.values())
        raise UserError(
            f"{table}: age of sub-{subject} is {age:g} years; no cohort of {space.template} holds "
            f"it, accepted: {lowest:g} to {highest:g} years"
        )
    return replace(space, cohort=cohort)


def find_template(space: Space) -> TemplateFiles:
    """Return the files of a template, fetched if they are not there.

    Parameters
    ----------
    space
        With a cohort of its own, not ``auto``.

    Raises
    ------
    UserError
        If one is missing and cannot be fetched.
    """
    if space.template == EMBEDDED:
        if space.resolution and space.resolution not in EMBEDDED_RESOLUTIONS:
            raise UserError(
                f"--output-spaces {space}: accepted for the embedded template: "
                f"{', '.join(f'res-{edge}' for edge in EMBEDDED_RESOLUTIONS)} [mm]"
            )
        return TemplateFiles()
    grid_of = space.resolution or "1"
    image, mask = _file(space, "T1w", "", "1"), _file(space, "mask", "brain", "1")
    grid = image if grid_of == "1" else _file(space, "T1w", "", grid_of)
    return TemplateFiles(str(image), str(mask), str(grid))


def check_spaces(spaces: Iterable[Space]) -> None:
    """Find the files of all templates whose cohort is known, before anything is computed.

    Raises
    ------
    UserError
        If one is missing and cannot be fetched.
    """
    for space in spaces:
        if space.cohort != AUTO:
            find_template(space)


def _file(space: Space, kind: str, desc: str, resolution: str) -> Path:
    """Return a file of a template, fetched if it is not there."""
    wanted = replace(space, resolution=resolution)
    found, reason = _stored(wanted, kind, desc), ""
    if found is None:
        reason = _fetch(wanted, kind, desc)
        found = _stored(wanted, kind, desc)
    if found is None:
        missing = f"--output-spaces {space}: {_path(wanted, kind, desc)} is not there"
        raise UserError(f"{missing} ({reason}); {_how_to_provide(wanted, kind, desc)}")
    return found


def _folder(space: Space) -> Path:
    folder = template_home() / f"tpl-{space.template}"
    return folder / f"cohort-{space.cohort}" if space.cohort else folder


def _path(space: Space, kind: str, desc: str) -> Path:
    cohort = f"_cohort-{space.cohort}" if space.cohort else ""
    ending = f"_desc-{desc}_{kind}" if desc else f"_{kind}"
    name = f"tpl-{space.template}{cohort}_res-{int(space.resolution):02d}{ending}.nii.gz"
    return _folder(space) / name


def _stored(space: Space, kind: str, desc: str) -> Path | None:
    """Return a file of a template; one without ``res-`` counts as the first resolution."""
    wanted = {"tpl": space.template, "cohort": space.cohort, "desc": desc}
    wanted = {key: value for key, value in wanted.items() if value}
    for path in sorted(_folder(space).glob(f"*_{kind}.nii*")):
        parts = entities(path)
        resolution = parts.pop("res", "1").lstrip("0")
        named = parts == wanted and suffix(path) == kind
        if named and resolution == space.resolution and _lies(path):
            return path
    return None


def _lies(path: Path) -> bool:
    # TemplateFlow lists what it could fetch as empty files, or as links that lead nowhere.
    return path.is_file() and path.stat().st_size > 0


def _query(space: Space, kind: str, desc: str) -> dict[str, Any]:
    query: dict[str, Any] = {"resolution": int(space.resolution), "suffix": kind}
    query |= {"desc": desc or None, "extension": "nii.gz"}
    return {**query, "cohort": space.cohort} if space.cohort else query


def _fetch(space: Space, kind: str, desc: str) -> str:
    """Let templateflow fetch a file; return why that did not succeed, if it is known."""
    query = _query(space, kind, desc)
    try:
        api = importlib.import_module("templateflow.api")
        conf = importlib.import_module("templateflow.conf")
        conf.update(local=True, overwrite=False, silent=True)  # its list of what there is
        if not api.get(space.template, **query) and query["resolution"] == 1:
            api.get(space.template, **{**query, "resolution": None})
    except ImportError:
        return "and the package templateflow, which would fetch it, is not installed"
    except (OSError, RuntimeError, ValueError) as error:
        return f"and could not be fetched: {type(error).__name__}"
    return "and TemplateFlow has no such file"


def _how_to_provide(space: Space, kind: str, desc: str) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in _query(space, kind, desc).items())
    return (
        'to provide it, run python -c "from templateflow.api import get; '
        f'get({space.template!r}, {arguments})" where there is a network (pip install '
        f"'sodiumprep[templates]'), or set {HOME} to a folder that has it"
    )
