"""A contrast of any design becomes one column that is tested, and others beside a constant."""

import numpy as np
import pandas as pd
import pytest

from sodiumprep.sodium.cohort.designs import Model, build_design, partitioned


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
