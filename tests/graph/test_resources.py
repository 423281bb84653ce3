"""Every step says what it needs, from the size of its input."""

import importlib
import inspect
import pkgutil
from dataclasses import replace

import pytest
from nipype.interfaces.base import BaseInterface
from nipype.pipeline.engine import Node

import sodiumprep.interfaces
from sodiumprep.interfaces.anatomy import Normalize
from sodiumprep.interfaces.reconstruct import ReconstructKspace
from sodiumprep.interfaces.sidecars import Saving
from sodiumprep.workflows.base import init_subject_wf
from sodiumprep.workflows.plans import AnatomyPlan, Size, SodiumPlan
from sodiumprep.workflows.resources import NEEDS, declare, memory, steps

SIZE = Size(anatomy=10_000_000, sodium=250_000, samples=3_000_000, coils=8)
SODIUM = SodiumPlan(
    name="sodium_wf", source={}, is_kspace=True, receive={}, regions={},
    given_xfm="", tissues={}, protocol={"echo_time": 3e-4}, reference="csf", vials=(), outputs={},
    provenance={}, size=SIZE,
)  # fmt: skip


def interfaces():
    """Return every interface that the project has."""
    for module in pkgutil.iter_modules(sodiumprep.interfaces.__path__):
        held = importlib.import_module(f"sodiumprep.interfaces.{module.name}")
        for _, kind in inspect.getmembers(held, inspect.isclass):
            own = kind.__module__ == held.__name__ and kind is not Saving  # what the savers share
            if issubclass(kind, BaseInterface) and own:
                yield kind


def declared(tmp_path, runs, threads=1, anatomy_size=SIZE):
    (tmp_path / "T1w.nii.gz").touch()
    plan = AnatomyPlan(image=str(tmp_path / "T1w.nii.gz"), size=anatomy_size)
    workflow = init_subject_wf("sub_01_wf", plan, runs, False)
    declare(workflow, plan, runs, threads)
    return steps(workflow)


def test_every_interface_has_an_entry_and_nothing_else_has():
    assert set(interfaces()) == set(NEEDS)


def test_every_step_declares_its_memory_and_its_threads(tmp_path):
    nodes = declared(tmp_path, [SODIUM])
    assert len(nodes) > 20
    for node in nodes.values():
        assert node.mem_gb == memory(node.interface, SIZE) != Node(node.interface, "a").mem_gb
        assert node._n_procs == 1


def test_heavy_libraries_declare_the_threads_of_a_process(tmp_path):
    nodes = declared(tmp_path, [SODIUM], threads=3)
    assert nodes["anatomy_wf.normalize"].n_procs == 3
    assert nodes["sodium_wf.concentration_wf.calibrate"].n_procs == 1


def test_a_step_of_a_run_declares_by_the_size_of_that_run(tmp_path):
    large = replace(SODIUM, name="sodium_large_wf", size=replace(SIZE, samples=30_000_000))
    nodes = declared(tmp_path, [SODIUM, large])
    needs = [nodes[f"{run.name}.reconstruct_wf.source"].mem_gb for run in (SODIUM, large)]
    assert needs[1] > 4 * needs[0]


@pytest.mark.parametrize("part", ["anatomy", "sodium", "samples", "coils"])
def test_more_input_needs_more_memory_somewhere_and_less_nowhere(part):
    more = replace(SIZE, **{part: 4 * getattr(SIZE, part)})
    needs = [(memory(kind(), SIZE), memory(kind(), more)) for kind in NEEDS]
    assert all(small <= large for small, large in needs)
    assert any(small < large for small, large in needs)


def test_iterative_reconstruction_declares_more_than_gridding_and_less_with_low_memory():
    gridding, iterative, sparing = (
        memory(ReconstructKspace(recon=recon, low_mem=low), SIZE)
        for recon, low in (("gridding", False), ("cg", False), ("cg", True))
    )
    assert gridding < sparing < iterative


def test_an_unknown_step_is_an_error():
    class Unknown(Normalize):
        pass

    with pytest.raises(KeyError):
        memory(Unknown(), SIZE)
