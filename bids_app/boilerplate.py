"""The methods text and its references, from what the graph does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import networkx
from nipype.pipeline.engine import Workflow

from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.files import write_text
from sodiumprep.workflows.reconstruct import DENSITY

# of every run
COMMON = {
    "gorgolewski2011": "Gorgolewski et al. 2011, Nipype, doi:10.3389/fninf.2011.00013",
    "avants2008": "Avants et al. 2008, SyN, doi:10.1016/j.media.2007.06.004",
    "tustison2010": "Tustison et al. 2010, N4, doi:10.1109/TMI.2010.2046908",
    "rousset1998": "Rousset et al. 1998, J Nucl Med 39:904",
    "york2004": "York et al. 2004, doi:10.1119/1.1632486",
    "riemer2018": "Riemer et al. 2018, 23Na relaxation at 3 T, doi:10.1002/nbm.3899",
    "niesporek2017": "Niesporek et al. 2017, at 7 T, doi:10.1007/s10334-017-0623-2",
}
# of what a run may use: listed where the text cites them by surname and year
CITED = {
    "barnett2019": "Barnett et al. 2019, finufft, doi:10.1137/18M120885X",
    "nagel2009": "Nagel et al. 2009, density-adapted radial, doi:10.1002/mrm.22157",
    "pipe1999": "Pipe & Menon 1999, density compensation, "
    "doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V",
    "pruessmann2001": "Pruessmann et al. 2001, CG-SENSE, doi:10.1002/mrm.1241",
    "rudin1992": "Rudin et al. 1992, total variation, doi:10.1016/0167-2789(92)90242-F",
    "boyd2011": "Boyd et al. 2011, alternating directions, doi:10.1561/2200000016",
    "ehrhardt2016": "Ehrhardt & Betcke 2016, directional total variation, doi:10.1137/15M1047325",
    "mckenzie2002": "McKenzie et al. 2002, self-calibration, doi:10.1002/mrm.10087",
    "uecker2014": "Uecker et al. 2014, ESPIRiT, doi:10.1002/mrm.24751",
    "tang2012": "Tang & Saad 2012, probing, doi:10.1002/nla.779",
    "robson2008": "Robson et al. 2008, pseudo-replicas, doi:10.1002/mrm.21728",
    "insko1993": "Insko & Bolinger 1993, double angle, doi:10.1006/jmra.1993.1133",
    "hoult1976": "Hoult & Richards 1976, reciprocity, doi:10.1016/0022-2364(76)90233-X",
    "noll1991": "Noll et al. 1991, off-resonance, doi:10.1109/42.108599",
    "pennec2013": "Pennec & Arsigny 2013, exponential barycentres, "
    "doi:10.1007/978-3-642-30232-9_7",
    "labbe1999": "Labbé et al. 1999, weighted least squares on blurred fractions",
    "thomas2011": "Thomas et al. 2011, region-based voxelwise correction, "
    "doi:10.1007/s00259-011-1745-9",
    "erlandsson2006": "Erlandsson et al. 2006, multi-target correction, IEEE Nuclear Science "
    "Symposium",
    "erlandsson2012": "Erlandsson et al. 2012, review with iterative Yang, "
    "doi:10.1088/0031-9155/57/21/R119",
    "muller-gartner1992": "Müller-Gärtner et al. 1992, doi:10.1038/jcbfm.1992.81",
    "asllani2008": "Asllani et al. 2008, regression, doi:10.1002/mrm.21670",
    "richardson1972": "Richardson 1972, doi:10.1364/JOSA.62.000055",
    "tohka2008": "Tohka & Reilhac 2008, reblurred Van Cittert, "
    "doi:10.1016/j.neuroimage.2007.10.038",
    "hu1988": "Hu et al. 1988, SLIM, doi:10.1002/mrm.1910080308",
    "batchelor2005": "Batchelor et al. 2005, motion, doi:10.1002/mrm.20656",
}
# by the name that the quality file holds
DENSITY_USED = {
    "radial": "Density compensation was analytic for radial readouts (Nagel 2009).",
    "analytic on cones": "Density compensation was analytic for readouts on cones (Nagel 2009).",
    "Pipe-Menon": "Density compensation was that of Pipe and Menon, found by iteration "
    "(Pipe 1999).",
}
_CITATION = re.compile(r"\b([A-Z][\w-]+) (\d{4})\b")


def cited_keys(text: str) -> list[str]:
    """Return the keys of the references that a text names, each once, in its order.

    Parameters
    ----------
    text
        Names references by surname and year.

    Examples
    --------
    >>> cited_keys("by CG-SENSE (Pruessmann 2001) with finufft, Barnett 2019")
    ['pruessmann2001', 'barnett2019']
    >>> cited_keys("the method of Müller-Gärtner 1992")
    ['muller-gartner1992']
    """
    found = (f"{_plain(name)}{year}" for name, year in _CITATION.findall(text))
    return list(dict.fromkeys(found))


def _plain(name: str) -> str:
    """Return a surname in lower case without accents."""
    letters = unicodedata.normalize("NFD", name.lower())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def references(text: str) -> dict[str, str]:
    """Return the references of a methods text by key.

    Parameters
    ----------
    text
        Names references by surname and year.
    """
    return COMMON | {key: CITED[key] for key in cited_keys(text) if key in CITED}


def descriptions(workflow: Workflow) -> list[str]:
    """Return the sentences of a graph's parts, each once, in the order of the graph.

    Parameters
    ----------
    workflow
        Any graph.
    """
    return list(dict.fromkeys(_sentences(workflow)))


def _sentences(workflow: Workflow) -> Iterator[str]:
    own = getattr(workflow, "__desc__", "")
    if own:
        yield own
    for node in _in_order(workflow):
        if isinstance(node, Workflow):
            yield from _sentences(node)


def _in_order(workflow: Workflow) -> list[Any]:
    return list(networkx.lexicographical_topological_sort(workflow._graph, key=lambda n: n.name))


def name_density(text: str, used: Collection[str]) -> str:
    """Return a methods text that names the density compensation that the runs turned out to use.

    Before a run its trajectory is not known, so the text states the rule.

    Parameters
    ----------
    text
        As :func:`write_boilerplate` wrote it.
    used
        ``DensityCompensation`` of the runs; the rule stays unless all used the same.
    """
    found = {DENSITY_USED.get(name, DENSITY) for name in used}
    return text.replace(DENSITY, found.pop()) if len(found) == 1 else text


def write_boilerplate(out_dir: Path, workflow: Workflow, settings: Settings) -> None:
    """Write ``logs/CITATION.md`` and ``logs/CITATION.bib``.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    workflow
        The graph.
    settings
        The user's choices.
    """
    names = DatasetNames(out_dir)
    sloppy = " Registration was coarse (--sloppy): not for publication." if settings.sloppy else ""
    text = (
        f"Sodium images were processed with sodiumprep {version('sodiumprep')}, a pipeline on "
        f"Nipype {version('nipype')}, with random seed {settings.random_seed}.{sloppy} "
        + " ".join(descriptions(workflow))
    )
    used = references(text)
    listed = "\n".join(f"- {reference}" for reference in used.values())
    write_text(names.citation_md, f"# Methods\n\n{text}\n\n# References\n\n{listed}\n")
    entries = (f"@misc{{{key},\n  note = {{{said}}}\n}}\n" for key, said in used.items())
    write_text(names.citation_bib, "\n".join(entries))
