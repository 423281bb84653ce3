"""What the figures of a cohort draw, and that odd cohorts do not stop them."""

import numpy as np
import pandas as pd
import pytest

from sodiumprep.bids_app.group import courses, drawing, intervals


def texts(axes):
    return [text.get_text() for text in axes.texts]


def cloud(values, group="all", name="GM", pvc="gtm"):
    return pd.DataFrame({"name": name, "pvc": pvc, "group": group, "mean": values})


@pytest.mark.parametrize("values", [[], [40.0], [40.0] * 20, [np.nan] * 9, [1.0, 2.0, np.nan]])
def test_few_equal_and_unknown_values_are_drawn_without_a_density(values):
    figure = drawing.regions_figure(cloud(values) if values else cloud([np.nan]))
    assert len(figure.axes) == 1


def test_a_cloud_draws_no_more_points_than_it_may():
    _, (axes,) = drawing.panels(1)
    drawing.draw_cloud(axes, np.linspace(0, 1, 5000), 0, ("#000000", True), 300)
    assert len(axes.lines[-1].get_xdata()) == 300


def test_a_group_without_a_region_leaves_its_row_empty():
    both = pd.concat([cloud([40.0] * 9, "a"), cloud([41.0] * 9, "b"),
                      cloud(range(9), "b", "core")])  # fmt: skip
    first, second = drawing.regions_figure(both).axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["a, GTM", "b, GTM"]
    assert first.get_ylim() == second.get_ylim()


def effects(q):
    return pd.DataFrame(
        [{"seg": "tissue", "name": "GM", "pvc": pvc, "contrast": c, "estimate": 1.0,
          "ci_low": 0.0, "ci_high": 2.0, "q": q}
         for pvc in ("none", "gtm") for c in "abcdefgh"]
    )  # fmt: skip


def test_a_forest_says_q_and_has_a_panel_for_each_of_the_first_contrasts():
    figure = intervals.forest_figure(effects(0.012))
    assert len(figure.axes) == intervals.MOST_CONTRASTS
    assert texts(figure.axes[0]) == ["q 0.012"]


def test_of_many_contrasts_those_with_the_smallest_q_are_drawn_in_their_order():
    table = effects(0.5)
    table.loc[table["contrast"].isin(["h", "g"]), "q"] = 0.01
    assert intervals.shown_contrasts(table) == ["a", "b", "c", "d", "g", "h"]


def test_a_forest_of_untested_effects_says_no_q():
    assert texts(intervals.forest_figure(effects(np.nan)).axes[0]) == []


def test_limits_of_agreement_are_drawn_where_they_are_known():
    pairs = pd.DataFrame({"name": "GM", "pvc": ["none", "gtm"] * 9, "mean": range(18),
                          "difference": np.linspace(-1, 1, 18)})  # fmt: skip
    limits = pd.DataFrame({"name": "GM", "pvc": ["none", "gtm"], "bias": [0.1, np.nan],
                           "loa_low": [-2.0, np.nan], "loa_high": [2.2, np.nan]})  # fmt: skip
    first, second = intervals.bland_altman_figure(pairs, limits).axes
    assert texts(first) == ["-2.0", "+2.2"]
    assert texts(second) == []


def test_the_colour_of_a_bar_is_its_verdict():
    rows = pd.DataFrame({"name": "GM", "change": [3.0, -3.0, 0.5], "limit": 2.0,
                         "verdict": ["worse", "improved", "within error"]})  # fmt: skip
    bars = courses.waterfall_figure(rows).axes[0].patches[:3]
    assert [bar.get_height() for bar in bars] == [-3.0, 0.5, 3.0]
    green, grey, red = (bar.get_facecolor() for bar in bars)
    assert len({green, grey, red}) == 3


def test_numbers_at_risk_are_those_just_before_the_tick():
    curves = pd.DataFrame({"name": "GM", "half": ["below"] * 3 + ["above"] * 3,
                           "time": [0, 4, 10] * 2, "survival": [1, 0.5, 0.2] * 2, "low": 0.0,
                           "high": 1.0, "at_risk": [6, 5, 2, 8, 7, 1]})  # fmt: skip
    axes = courses.survival_figure(curves, {"GM": 45.0}, "weeks").axes[0]
    at = {text.xy[0]: [] for text in axes.texts}
    for text in axes.texts:
        at[text.xy[0]].append(text.get_text())
    assert (at[0], at[4.0], at[10.0]) == (["6", "8"], ["5", "7"], ["2", "1"])


def test_a_curve_carries_its_area_with_and_without_correction():
    points = pd.DataFrame({"told": "a", "pvc": ["none"] * 2 + ["gtm"] * 2,
                           "sensitivity": [0, 1, 0, 1], "specificity": [1, 0, 1, 0]})  # fmt: skip
    areas = pd.DataFrame({"told": "a", "pvc": ["none", "gtm"], "auc": [0.71, 0.83]})
    legend = courses.roc_figure(points, areas).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["uncorrected: 0.71", "GTM: 0.83"]


def test_who_is_of_the_reference_is_told_by_more_than_colour():
    curves = pd.DataFrame({"name": "GM", "age": [20, 60] * 2, "value": [35, 36, 40, 41],
                           "centile": ["0.05"] * 2 + ["0.5"] * 2})  # fmt: skip
    points = pd.DataFrame({"name": "GM", "age": [30, 40], "value": [40, 44],
                           "member": [True, False]})  # fmt: skip
    axes = courses.norms_figure(curves, points, "age").axes[0]
    assert axes.lines[0].get_marker() != axes.lines[1].get_marker()
    assert texts(axes) == ["5 %", "50 %"]


def test_colours_of_groups_differ_as_far_as_there_are_any():
    assert len({drawing.group_color(k) for k in range(6)}) == 6
    assert drawing.group_color(6) == drawing.group_color(0)
