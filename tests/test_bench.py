"""``bench`` runs, and writes a row for every figure that it promises."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_helpers import exit_code
from helpers import random_batch
from rich.console import Console

from attribench.base.errors import UserError
from attribench.bench import Bench, many_cells, run_bench
from attribench.model.graphs import GraphBatch
from attribench.plugins.configs import make_config
from attribench.plugins.registry import METHODS, TASKS, load_plugin
from attribench.plugins.task import TaskSeeds, Workshop, build_problem, without_cache

Toy: Any = TASKS["toy"]


def test_bench_prints_and_writes_every_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "seconds", _once)
    arguments = ["bench", "--methods", "integrated-gradients,graphmask,gate-values", "--graphs", "10", "--out"]
    assert exit_code(*arguments, str(tmp_path)) == 0
    rows = pd.read_csv(tmp_path / "bench.csv")
    told = ["method", "ours_is", "ours", "other_is", "other", "ratio", "better", "peak_mib"]
    assert list(rows) == [*told, "task", "device", "threads"]
    assert rows.groupby("method").size().to_dict() == {"graphmask": 3, "integrated-gradients": 4}
    rival = rows[rows["other_is"].str.contains("PyG CaptumExplainer")]
    assert list(rival["better"]) == ["higher"]
    growth = rows["other_is"].str.endswith("10 times")
    assert (rows["peak_mib"].notna() == growth).all()
    ratios = rows["ours"] / rows["other"]
    upside_down = rows["better"] == "higher"
    assert list(rows["ratio"]) == pytest.approx(list(ratios.where(~upside_down, 1 / ratios)), rel=1e-2)


def test_bench_says_what_a_run_spends_beside_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of methods that are plugins, of which the processes have to know."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from attribench import METHODS, Attribution, Method\n\n\n@METHODS.register\nclass Nothing(Method):\n"
        '    """All messages alike."""\n\n    name = "nothing-of-bench"\n\n    def attribute(self, graphs):\n'
        "        with self.gates() as gates:\n"
        '            return Attribution(gates.record(graphs).ones(), scale="relative")\n'
    )
    monkeypatch.setattr(METHODS, "_entries", {name: METHODS[name] for name in METHODS})
    load_plugin(str(plugin))
    whole, tables = many_cells("toy", ["erasure", "nothing-of-bench"], 4, torch.device("cpu"), [str(plugin)])
    assert whole.ours_is == "a run of 4 small cells, of all processes"
    assert whole.ours > whole.other > 0.1
    assert whole.ratio == whole.ours / whole.other
    assert tables.ours < whole.ours


def _once(self: Bench, *actions: object, repeats: int = 3) -> list[float]:
    """Run every action once, and say that each took one second longer than the one before."""
    for action in actions:
        assert callable(action)
        action()
    return [float(i + 1) for i, _ in enumerate(actions)]


class Forms(Toy):
    """The toy, of which a second model is said to be the same, and a graph of any size."""

    def forms(self, model: Any) -> dict[str, Any]:
        return {"as it is": model, "again": deepcopy(model)}

    def example(self, problem: Any, num_nodes: int) -> GraphBatch:
        count = torch.tensor([num_nodes - 1])
        stars = problem.splits["test"].graphs
        return replace(
            random_batch([(num_nodes, int(count))]),
            node={"x": stars["x"][:1].expand(num_nodes, -1)},
            edge={"edge_type": torch.zeros(int(count), dtype=torch.long)},
        )


def test_forms_of_a_model_are_timed_beside_each_other_and_how_they_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "seconds", _once)
    task = Forms(make_config("toy", Forms.Config, Forms.quick))
    problem = build_problem(task, TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))
    bench = Bench(problem, 10, torch.device("cpu"))
    forms, *growth = bench.forms(task)
    assert (forms.ours_is, forms.other_is) == (
        "a gated pass, forwards and backwards, over 10 graphs, as it is", "the same, again",
    )  # fmt: skip
    assert forms.ratio == forms.ours / forms.other
    assert [row.ours_is for row in growth] == [
        f"a gated pass over a graph of 500 nodes and 499 edges, {name}" for name in ("as it is", "again")
    ]
    for row in growth:  # every action takes one second more than the one before
        assert row.ours == 2
        assert row.other == pytest.approx(499 / 249)
        assert row.ratio == pytest.approx(2 * 249 / 499)
    assert bench.forms(Toy(make_config("toy", Toy.Config, Toy.quick))) == []


def test_as_many_graphs_are_explained_as_leave_ten_times_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Toy(make_config("toy", Toy.Config, {**Toy.quick, "test": 35}))
    problem = build_problem(task, TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))
    monkeypatch.setattr(Bench, "seconds", _once)
    monkeypatch.setattr("attribench.bench._problem", lambda *_: (task, problem))
    run_bench(torch.device("cpu"), "toy", ["gate-values"], None, tmp_path, Console())
    assert "toy, 3 graphs, cpu" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected 40 test graphs, 10 times --graphs; 'toy' has 35"):
        run_bench(torch.device("cpu"), "toy", [], 4, tmp_path, Console())
