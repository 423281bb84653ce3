"""The methods text and its references, from what the graph does."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import networkx
from nipype.pipeline.engine import Workflow

from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.settings import Settings

REFERENCES = {
    "gorgolewski2011": "Gorgolewski et al. 2011, Nipype, doi:10.3389/fninf.2011.00013",
    "avants2008": "Avants et al. 2008, SyN, doi:10.1016/j.media.2007.06.004",
    "tustison2010": "Tustison et al. 2010, N4, doi:10.1109/TMI.2010.2046908",
    "barnett2019": "Barnett et al. 2019, finufft, doi:10.1137/18M120885X",
    "rousset1998": "Rousset et al. 1998, J Nucl Med 39:904",
    "york2004": "York et al. 2004, doi:10.1119/1.1632486",
    "riemer2018": "Riemer et al. 2018, 23Na relaxation at 3 T, doi:10.1002/nbm.3899",
    "niesporek2017": "Niesporek et al. 2017, at 7 T, doi:10.1007/s10334-017-0623-2",
}


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
    names.logs.mkdir(parents=True, exist_ok=True)
    sloppy = " Registration was coarse (--sloppy): not for publication." if settings.sloppy else ""
    text = (
        f"Sodium images were processed with sodiumprep {version('sodiumprep')}, a pipeline on "
        f"Nipype {version('nipype')}, with random seed {settings.random_seed}.{sloppy} "
        + " ".join(descriptions(workflow))
    )
    listed = "\n".join(f"- {text}" for text in REFERENCES.values())
    names.citation_md.write_text(f"# Methods\n\n{text}\n\n# References\n\n{listed}\n")
    entries = (f"@misc{{{key},\n  note = {{{text}}}\n}}\n" for key, text in REFERENCES.items())
    names.citation_bib.write_text("\n".join(entries))
