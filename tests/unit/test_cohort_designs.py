"""A contrast of any design becomes one column that is tested, and others beside a constant."""

import numpy as np
import pandas as pd
import pytest

from sodiumprep.sodium.cohort.designs import Model, Subsets, build_design, partitioned


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    n = 30
    return pd.DataFrame({
        "participant_id": [f"sub-{k:02d}" for k in range(n)], "session": "n/a",
        "group": np.resize(["a", "b", "c"], n), "age": rng.uniform(20, 80, n),
    })  # fmt: skip


@pytest.mark.parametrize("name", ["group: b - a", "group: c - b", "age", "age by group: c - a"])
def test_the_tested_column_has_the_contrast_for_its_coefficient(rows, name):
    design = build_design(rows, Model("group * age", slopes=["age"]))
    weights = design.contrasts[name].weights
    outcome = np.random.default_rng(4).normal(size=len(rows))
    asked = weights @ np.linalg.lstsq(design.matrix, outcome, rcond=None)[0]
    tested, others = partitioned(design.matrix, weights)
    split = np.column_stack([tested, np.ones(len(rows)), others])
    assert np.linalg.matrix_rank(split) == split.shape[1] == design.matrix.shape[1]
    assert np.linalg.lstsq(split, outcome, rcond=None)[0][0] == pytest.approx(asked)


def test_a_mean_is_no_contrast_beside_a_constant(rows):
    design = build_design(rows, Model(contrasts={"mean": {"group.a": 1.0}}))
    with pytest.raises(ValueError, match="must sum to 0"):
        partitioned(design.matrix, design.contrasts["mean"].weights)


@pytest.mark.parametrize("formula", ["group * age", "group + center(age)"])
@pytest.mark.parametrize("left", [30, 21, 7])
def test_a_design_of_some_rows_is_that_of_their_own_table(rows, formula, left):
    model = Model(formula, slopes=["age"], reference={"group": "b"})
    places = np.sort(np.random.default_rng(left).permutation(len(rows))[:left])
    own = rows.iloc[places].reset_index(drop=True)
    found, expected = Subsets(rows, model).design(own, places), build_design(own, model)
    assert found.matrix == pytest.approx(expected.matrix)
    assert found.contrasts.keys() == expected.contrasts.keys()
    for name, contrast in expected.contrasts.items():
        assert found.contrasts[name].weights == pytest.approx(contrast.weights)
        assert found.contrasts[name].spread == pytest.approx(contrast.spread)
    assert (found.notes, found.between_rank) == (expected.notes, expected.between_rank)


def test_a_level_that_is_hardly_there_is_left_out_as_in_its_own_table(rows):
    places = np.flatnonzero((rows["group"] != "c") | (rows.index == 2))
    own = rows.iloc[places].reset_index(drop=True)
    found = Subsets(rows, Model()).design(own, places)
    assert found.notes == build_design(own, Model()).notes
    assert list(found.contrasts) == ["group: b - a"]
