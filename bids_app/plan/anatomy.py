"""The plan of a subject's anatomy."""

from __future__ import annotations

from pathlib import Path

from sodiumprep.bids_app.ages import read_age
from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.atlases import plan_labels
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.names import DerivativeNames
from sodiumprep.bids_app.plan.reference import plan_reference
from sodiumprep.bids_app.plan.subject import links, provenance
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.sizes import anatomy_size
from sodiumprep.bids_app.spaces import backward_transforms, plan_templates, ready_transforms
from sodiumprep.bids_app.templates import EMBEDDED
from sodiumprep.workflows.plans import AnatomyPlan, Size

TEMPLATE_PORTS = ("to_template", "from_template")


def plan_anatomy(job: SubjectJob, settings: Settings) -> AnatomyPlan:
    """Plan the anatomy of one subject and session.

    Parameters
    ----------
    job
        What was found.
    settings
        The user's choices.

    Returns
    -------
    plan
        With every output's path.

    Raises
    ------
    UserError
        If a template is missing, or the age that chooses its cohort.
    """
    found: Anatomy = job.anatomy
    names = DerivativeNames(settings.out_dir, job.subject, job.session, anat_suffix=found.suffix)
    ready = _ready(found)
    unused = {key for key in ready if key.startswith(("to_", "from_"))} - set(TEMPLATE_PORTS)
    used = [path for key, path in ready.items() if key not in unused]
    raw = [] if "preproc" in ready else [found.image]
    sources = [*raw, *used, *found.lesions.values()]
    if job.reference and job.reference.builds_template:
        sources += [image.image for image in job.reference.images]
    told = {
        **provenance(job, [p for p in sources if p], settings, found.warnings),
        **({"AnatomyFrom": list(found.sources)} if found.sources else {}),
    }
    return AnatomyPlan(
        image=str(found.image or ""),
        ready={key: str(path) for key, path in ready.items()},
        label_tissues=dict(found.label_tissues),
        lesions={key: str(path) for key, path in found.lesions.items()},
        outputs={
            "preproc_file": str(names.anat_preproc()),
            "brain_mask": str(names.brain_mask()),
            "dseg_file": str(names.dseg()),
            "gm_file": str(names.probseg("GM")),
            "wm_file": str(names.probseg("WM")),
            "csf_file": str(names.probseg("CSF")),
            "to_template_xfm": str(names.template_transform(EMBEDDED)),
            "from_template_xfm": str(names.inverse_template_transform(EMBEDDED)),
            **{f"lesion_{name}": str(names.lesion_mask(name)) for name in found.lesions},
        },
        provenance=told,
        reference=plan_reference(job, settings),
        templates=plan_templates(job, settings, told),
        transforms=ready_transforms(job),
        backward=backward_transforms(job),
        atlases=plan_labels(job, settings, told, links(settings)),
        age=read_age(settings.bids_dir, job.subject, job.session),
        inversions=_inversions(found.image),
        size=size_of_anatomy(job),
    )


def size_of_anatomy(job: SubjectJob) -> Size:
    """Return how much data the anatomy of a subject has.

    Parameters
    ----------
    job
        What was found.
    """
    shared = job.reference.images[0].image if job.reference and job.reference.images else None
    return anatomy_size(job.anatomy.ready.get("preproc") or job.anatomy.image or shared)


def _ready(found: Anatomy) -> dict[str, Path]:
    """Return ready-made files; of transforms those of the embedded template, by their port."""
    ports = {f"{way}_{EMBEDDED}": f"{way}_template" for way in ("to", "from")}
    return {
        ports.get(key, key): path
        for key, path in found.ready.items()
        if key in ports or not key.startswith(("to_", "from_"))
    }


def _inversions(image: Path | None) -> tuple[str, ...]:
    """Return the magnitudes of the two inversion images that a UNIT1 was made of."""
    if image is None or "_UNIT1." not in image.name:
        return ()
    found = []
    for number in (1, 2):
        names = (f"_inv-{number}{part}_MP2RAGE." for part in ("", "_part-mag"))
        paths = [image.with_name(image.name.replace("_UNIT1.", name)) for name in names]
        found += [str(path) for path in paths if path.is_file()][:1]
    return tuple(found) if len(found) == 2 else ()
