"""Options of a run and the plan that they make."""

from pathlib import Path
from typing import Any

import pytest

from attribench.base.errors import UserError
from attribench.running.options import make_plan, run_settings
from attribench.running.plan import Plan
from attribench.storing.pieces import Cell


def planned(file: dict[str, Any] | None = None, named: dict[str, Any] | None = None, **given: Any) -> Plan:
    return make_plan(run_settings({}, **{"methods": ["gate-values"], "device": "cpu", **given}), file, named)


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults() -> None:
    settings = run_settings({"seeds": 3, "max-edges": 50, "task": "relay", "cell-timeout": 5}, seeds=4, jobs=None)
    assert (settings["seeds"], settings["max_edges"], settings["task"], settings["jobs"]) == (4, 50, ["relay"], None)
    assert settings["cell_timeout"] == 5.0
    assert settings["randomised_graphs"] == 100


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        ({"seed": 1}, {}, "options of \\[run\\] among methods, task"),
        ({"seeds": True}, {}, "expected a int for seeds"),
        ({"seeds": "two"}, {}, "expected a int for seeds"),
        ({"methods": [1]}, {}, "expected a list for methods"),
        ({"cell_timeout": True}, {}, "expected a float for cell_timeout"),
        ({"seeds": 0}, {}, "expected seeds of at least 1"),
        ({}, {"seeds": 100_001}, "at most 100000; got 100001"),
        ({}, {"max_edges": 0}, "expected max_edges of at least 1"),
        ({}, {"cell_timeout": float("nan")}, "expected cell_timeout"),
        ({}, {"cell_timeout": 0.0}, "expected --cell-timeout in seconds above 0"),
        ({}, {"cell_timeout": 1.0, "jobs": 0}, "with --jobs of at least 1"),
        ({}, {"overwrite": "no"}, "expected --overwrite failed, never, always; got 'no'"),
    ],
)
def test_bad_settings(table: dict[str, Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_settings(table, **given)


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
    assert len(plan.grounds()) == len({seeds[:2] for seeds in expected})


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
        folder = Path("given")
        assert planned(other, task=["srl-gnn"], data_dir=folder).configs()["srl-gnn"].data_dir == "given"
        assert planned(named=other, task=["srl-gnn"], data_dir=folder).configs()["srl-gnn"].data_dir == "other"


def test_a_family_without_a_task_in_the_run_is_an_error_on_the_command_line_alone() -> None:
    options = {"srl": {"width": 32}}
    assert planned(options, task=["toy"]).options == {}
    with pytest.raises(UserError, match="for a task or method of this run"):
        planned(named=options, task=["toy"])
    with pytest.raises(UserError, match="srk"):
        planned({"srk": {"width": 32}}, task=["toy"])


def test_the_folder_of_data_goes_to_the_tasks_that_read_one() -> None:
    plan = planned(task=["toy,srl-gnn"], data_dir=Path("licensed"))
    assert plan.configs()["srl-gnn"].data_dir == "licensed"
    named = {"srl-gnn": {"data_dir": "other"}}
    assert planned(named=named, task=["srl-gnn"], data_dir=Path("licensed")).configs()["srl-gnn"].data_dir == "other"
    with pytest.raises(UserError, match="expected a task that reads --data-dir; toy bring their own data"):
        planned(task=["toy"], data_dir=Path("licensed"))


def test_a_plan_has_a_bounded_number_of_cells() -> None:
    with pytest.raises(UserError, match=r"at most 1000000 cells \(tasks x methods x seeds\); got 1200000"):
        planned(task=["two-hop,relay,any-of,decoy-gates,toy,toy-gated"], methods=["gate-values,erasure"], seeds=100_000)
