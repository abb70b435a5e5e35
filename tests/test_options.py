"""Options of a run and the plan that they make."""

from typing import Any

import pytest

from attribench.base.errors import UserError
from attribench.base.pieces import Cell
from attribench.running.options import run_options
from attribench.running.plan import Plan
from attribench.running.planning import make_plan


def planned(file: dict[str, Any] | None = None, named: dict[str, Any] | None = None, **given: Any) -> Plan:
    return make_plan(run_options({}, **{"methods": ["gate-values"], "device": "cpu", **given}), file, named)


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults() -> None:
    options = run_options({"seeds": 3, "max-edges": 50, "task": "relay", "cell-timeout": 5}, seeds=4, jobs=None)
    assert (options.seeds, options.max_edges, options.task, options.jobs) == (4, 50, ["relay"], None)
    assert options.cell_timeout == 5.0
    assert options.randomised_graphs == 100


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        ({"seed": 1}, {}, "options of a run among methods, task"),
        ({"seeds": True}, {}, "run.seeds: Input should be a valid integer; got True: change it"),
        ({"seeds": "two"}, {}, "run.seeds: Input should be a valid integer; got 'two'"),
        ({"methods": [1]}, {}, "run.methods.0: Input should be a valid string"),
        ({"cell_timeout": True}, {}, "run.cell_timeout: Input should be a valid number"),
        ({"seeds": 0}, {}, "run.seeds: Input should be greater than or equal to 1; got 0"),
        ({}, {"seeds": 100_001}, "less than or equal to 100000; got 100001"),
        ({}, {"max_edges": 0}, "run.max_edges: Input should be greater"),
        ({}, {"cell_timeout": float("nan")}, "run.cell_timeout: Input should be"),
        ({}, {"cell_timeout": 0.0}, "run.cell_timeout: Input should be greater than 0"),
        ({}, {"cell_timeout": 1.0, "jobs": 0}, "with --jobs of at least 1"),
        ({}, {"overwrite": "no"}, "run.overwrite: Input should be 'failed', 'never' or 'always'; got 'no'"),
    ],
)
def test_bad_settings(table: dict[str, Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_options(table, **given)


def seeds_of(cells: list[Cell]) -> list[tuple[int, int, int]]:
    return [(cell.data_seed, cell.model_seed, cell.fit_seed) for cell in cells]


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        (["data", "model", "fit"], [(5, 5, 5), (6, 6, 6)]),
        (["fit"], [(5, 5, 5), (5, 5, 6)]),
        (["model,fit"], [(5, 5, 5), (5, 6, 6)]),
    ],
)
def test_what_varies_with_the_seed(vary: list[str], expected: list[tuple[int, int, int]]) -> None:
    plan = planned(vary=vary, seeds=2, first_seed=5)
    assert seeds_of(plan.cells()) == expected
    assert len(plan.problems()) == len({seeds[:2] for seeds in expected})


@pytest.mark.parametrize("vary", [["weights"], ["data,weights"], []])
def test_only_what_there_is_can_vary(vary: list[str]) -> None:
    with pytest.raises(UserError, match=r"expected --vary of data, model, fit|at least one of vary"):
        planned(vary=vary)


def test_a_family_s_options_are_those_of_its_tasks_and_a_task_s_own_win() -> None:
    named = {"srl": {"width": 32, "epochs": 2}, "srl-gnn": {"epochs": 3}}
    configs = planned(task=["srl-gnn,srl-lstm,srl-lstm[width=16]"], named=named).configs()
    assert {name: (config.width, config.epochs) for name, config in configs.items() if name != "gate-values"} == {
        "srl-gnn": (32, 3),
        "srl-lstm": (32, 2),
        "srl-lstm[width=16]": (16, 2),
    }


def test_what_is_given_on_the_command_line_wins_whether_for_a_family_or_a_task() -> None:
    for file in ({"srl-gnn": {"width": 16}}, {"srl": {"width": 16}}):
        for named in ({"srl-gnn": {"width": 32}}, {"srl": {"width": 32}}):
            assert planned(file, named, task=["srl-gnn"]).configs()["srl-gnn"].width == 32
    for name in ("srl", "srl-gnn"):
        other: dict[str, Any] = {name: {"data_dir": "other"}}
        folder = "given"
        assert planned(other, task=["srl-gnn"], data_dir=str(folder)).configs()["srl-gnn"].data_dir == "given"
        assert planned(named=other, task=["srl-gnn"], data_dir=str(folder)).configs()["srl-gnn"].data_dir == "other"


def test_a_family_without_a_task_in_the_run_is_an_error_on_the_command_line_alone() -> None:
    options = {"srl": {"width": 32}}
    assert planned(options, task=["toy"]).overrides == {}
    with pytest.raises(UserError, match="for a task or method of this run"):
        planned(named=options, task=["toy"])
    with pytest.raises(UserError, match="srk"):
        planned({"srk": {"width": 32}}, task=["toy"])


def test_the_folder_of_data_goes_to_the_tasks_that_read_one() -> None:
    plan = planned(task=["toy,srl-gnn"], data_dir="licensed")
    assert plan.configs()["srl-gnn"].data_dir == "licensed"
    named = {"srl-gnn": {"data_dir": "other"}}
    assert planned(named=named, task=["srl-gnn"], data_dir="licensed").configs()["srl-gnn"].data_dir == "other"
    with pytest.raises(UserError, match="expected a task that reads --data-dir; toy bring their own data"):
        planned(task=["toy"], data_dir="licensed")


def test_a_plan_has_a_bounded_number_of_cells() -> None:
    with pytest.raises(UserError, match=r"at most 1000000 cells \(tasks x methods x seeds\); got 1200000"):
        planned(task=["two-hop,relay,any-of,decoy-gates,toy,toy-gated"], methods=["gate-values,erasure"], seeds=100_000)
