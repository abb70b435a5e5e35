"""What the harness's scorers say of rows whose answers are known: keep-all, drop-all, the gold, and a soft method."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from attribench import TASKS, Attribution, Problem, TaskSeeds, Workshop
from attribench.plugins.configs import make_config
from attribench.plugins.task import build_problem, without_cache
from attribench.scoring.figures import entry_of, figure_of
from attribench.scoring.judge import Judge
from attribench.scoring.row import Scores


@cache
def built(name: str) -> Problem:
    kind = TASKS[name]
    task = kind(make_config(name, kind.Config, kind.quick))
    return build_problem(task, TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))


def scored(name: str, value: float | None = None) -> Scores:
    """Score a mask that retains all (1) or nothing (0), or the gold, as if a method had found it."""
    problem = built(name)
    with Judge(problem) as judge:
        if value is None:
            gold = problem.splits["test"].gold
            assert gold is not None
            mask = gold.expand(judge.num_layers, -1)
            attribution = Attribution(mask.to(torch.float32), hard_mask=mask)
        else:
            attribution = judge.constant("test", value)
        return judge.score("mine", {"test": attribution})


def test_all_messages_are_faithful_and_none_are_not_needed() -> None:
    row = scored("two-hop", 1.0)
    assert row.figures["fidelity_minus"] == row.figures["unfaithfulness"] == 0
    nothing = scored("two-hop", 0.0)
    assert row.figures["fidelity_plus"] == nothing.figures["fidelity_minus"]
    assert nothing.figures["fidelity_plus"] == 0
    assert nothing.figures["characterization"] == 0
    assert row.figures["unchanged_keeping_1"] == 1
    assert row.figures["divergence_keeping_1"] == 0
    assert nothing.figures["f1_undirected"] == 0


def test_the_gold_found_is_found_in_either_direction() -> None:
    row = scored("two-hop")
    assert row.figures["f1_undirected"] == 1
    assert set(row.per_graph["f1_undirected"]) == {1}
    assert row.figures["metric_kept_dropping_0"] == row.figures["metric_own"]
    whole = scored("two-hop", 1.0).figures["metric_own"]
    assert row.figures["metric_cut_dropping_0"] == row.figures["metric_random_dropping_0"] == whole
    assert row.figures["metric_kept_dropping_1"] == scored("two-hop", 0.0).figures["metric_own"]
    assert row.per_graph["unchanged_area"].mean() == pytest.approx(row.figures["unchanged_area"])
    levels = [layer[f"scored_above_{level:g}"] for layer in row.layers for level in (0, 0.5, 0.95)]
    assert levels[0] == levels[1] == levels[2]  # scores of 0 and 1
    assert row.layers[0]["scored_above_1"] == 0


def test_a_control_has_what_costs_no_pass() -> None:
    with Judge(built("two-hop")) as judge:
        rows = judge.problem_controls()
        assert judge.gold_alone() == {
            "unchanged_by_gold_alone": next(r for r in rows if r.method == "gold").figures["unchanged_zero"]
        }
    for row in rows:
        assert "f1_undirected" in row.figures
        assert not [name for name in row.figures if "_dropping_" in name or "_keeping_" in name or "fidelity" in name]


@pytest.mark.parametrize("name", ["two-hop", "toy"])
def test_the_catalogue_knows_every_figure_that_is_made(name: str) -> None:
    row = scored(name, 1.0)
    for figure in row.figures:
        assert figure_of(figure).meaning, figure
    for column in row.per_graph:
        assert column == "graph" or entry_of(column, "per_graph").meaning, column
    for layer in row.layers:
        assert all(column == "layer" or entry_of(column, "layers").meaning for column in layer)
