"""The Python face: own models without registering anything, runs and results as objects."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, global_add_pool
from torch_geometric.nn.models import GIN

import attribench
from attribench import (
    TASKS,
    GraphBatch,
    GraphClassification,
    GraphRegression,
    Problem,
    PyGModel,
    SequenceLabelling,
    Split,
    Task,
    UserError,
)
from attribench.api import unused
from attribench.cli import main
from attribench.plugins.given import SUFFIX, Given
from attribench.plugins.giving import give
from attribench.running.outlook import size_of

METHODS = "integrated-gradients,gnnexplainer,erasure-greedy"
QUICK = {"gnnexplainer": {"steps": 5}}


class Net(nn.Module):
    """A stranger's classifier of graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = GCNConv(3, 8), GCNConv(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        h = self.second(self.first(x, edge_index).relu(), edge_index).relu()
        out: Tensor = self.out(global_add_pool(h, batch))
        return out


class OfData(Net):
    """The same, called with a Data object."""

    def forward(self, data: Data) -> Tensor:  # type: ignore[override]
        return super().forward(data.x, data.edge_index, data.batch)


class Weighted(Net):
    """One that takes weights of edges where there are any."""

    def forward(  # type: ignore[override]
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        h = self.first(x, edge_index, edge_weight).relu()
        out: Tensor = self.out(global_add_pool(h, batch))
        return out


def make_graphs(count: int = 30, **more: Any) -> list[Data]:
    draw = torch.Generator().manual_seed(7)
    graphs = []
    for _ in range(count):
        x = torch.eye(3)[torch.randint(3, (6,), generator=draw)]
        edges = torch.randint(6, (2, 12), generator=draw)
        edges = edges[:, edges[0] != edges[1]]
        graphs.append(Data(x=x, edge_index=edges, **{name: make(edges.shape[1]) for name, make in more.items()}))
    return graphs


def made(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(3)
    return kind()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> attribench.Explanations:
    out = tmp_path_factory.mktemp("own") / "r"
    return attribench.explain(made(), make_graphs(), METHODS, settings=QUICK, out=out, progress=False)


class Registered(Task):
    """The same model and graphs as a task of one's own."""

    name = "own-model"

    def build(self, seeds: Any, workshop: Any) -> Problem:
        graphs = make_graphs()
        model = PyGModel(made(), "x", "edge_index", "batch").eval()
        splits = {}
        for split, index in parts_of(graphs).items():
            batch = GraphBatch.from_data_list([graphs[i] for i in index], name=split)
            splits[split] = Split(batch, model(batch).argmax(1).detach())
        return Problem(model, GraphClassification(), splits)


def parts_of(graphs: list[Data]) -> dict[str, list[int]]:
    """Return the positions of every split, found again by the graphs themselves."""
    splits = give(made(), graphs).problem.splits
    of = {tuple(data.edge_index.flatten().tolist()): i for i, data in enumerate(graphs)}
    return {
        name: [
            of[tuple(split.graphs.select(torch.tensor([i])).edge_index.flatten().tolist())]
            for i in range(split.graphs.num_graphs)
        ]
        for name, split in splits.items()
    }


@pytest.fixture
def registered() -> Iterator[None]:
    with TASKS.holding(Registered):
        yield


def test_the_list_is_split_by_the_graphs_and_not_by_their_places() -> None:
    graphs = make_graphs()
    parts = parts_of(graphs)
    assert {name: len(index) for name, index in parts.items()} == {"train": 18, "validation": 6, "test": 6}
    assert sorted(i for index in parts.values() for i in index) == list(range(30))
    turned = {name: sorted(29 - i for i in index) for name, index in parts_of(graphs[::-1]).items()}
    assert turned == parts


def test_figures_are_those_of_the_same_model_as_a_registered_task(
    found: attribench.Explanations, registered: None, tmp_path: Path
) -> None:
    results = attribench.run(
        task="own-model", methods=METHODS, settings=QUICK, out=str(tmp_path / "r"), jobs=0, progress=False
    )
    for name in ("scores", "comparison", "per_graph", "layers"):
        pd.testing.assert_frame_equal(getattr(results, name), getattr(found, name))
    assert set(found.comparison["method"]) >= {*METHODS.split(","), "keep-all", "random(gnnexplainer)"}


def test_workers_give_the_same(found: attribench.Explanations) -> None:
    others = attribench.explain(
        made(), make_graphs(), "integrated-gradients,gnnexplainer", settings=QUICK, jobs=1, progress=False
    )
    mine = found.scores[found.scores["method"].isin(others.scores["method"])].reset_index(drop=True)
    without = [name for name in mine if name not in others.scores]  # what the third method alone has
    assert without == ["coverage"]
    assert mine["coverage"].isna().all()
    pd.testing.assert_frame_equal(others.scores, mine.drop(columns=without), check_like=True)


def test_explanations_are_of_the_graphs_that_were_given(found: attribench.Explanations) -> None:
    assert repr(found).startswith("Explanations(")
    graphs = make_graphs()
    pyg = found.to_pyg("integrated-gradients")
    assert [one.position for one in found.explanations("integrated-gradients")] == parts_of(graphs)["test"]
    for one, explanation in zip(found.explanations("integrated-gradients"), pyg, strict=True):
        data = graphs[one.position]
        assert torch.equal(explanation.edge_index, data.edge_index)
        assert torch.equal(explanation.x, data.x)
        assert one.scores.shape == (2, data.num_edges) == explanation.edge_mask_of_layers.T.shape
        assert torch.equal(explanation.edge_mask, one.scores.amax(0))
        assert one.mask is not None
        assert torch.equal(explanation.retained, one.mask.T)
        assert explanation.validate()
        with torch.no_grad():
            expected = made()(data.x, data.edge_index, torch.zeros(6, dtype=torch.long)).argmax(1)
        assert int(one.prediction) == int(expected)


def test_finished_cells_are_used_again_and_not_those_of_another_model(
    found: attribench.Explanations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(found.folder, tmp_path / "r")
    arguments: dict[str, Any] = dict(settings=QUICK, out=tmp_path / "r", progress=False)
    other = made()
    with torch.no_grad():
        other.out.bias += torch.tensor([3.0, 0.0])  # type: ignore[union-attr, operator]
    changed = attribench.explain(other, make_graphs(), "gnnexplainer", **arguments)
    assert changed.ending is not None
    assert changed.ending.left_out == {"which today's code would make anew: run their command again": 2}
    assert {cell.method for cell in changed.cells} == {"gnnexplainer"}
    assert changed.cell("gnnexplainer").key != found.cell("gnnexplainer").key
    monkeypatch.setattr(attribench.METHODS["integrated-gradients"], "attribute", None)
    again = attribench.explain(made(), make_graphs(), METHODS, **arguments)
    pd.testing.assert_frame_equal(again.scores, found.scores)


def test_a_folder_is_loaded_without_its_code(found: attribench.Explanations) -> None:
    loaded = attribench.load(found.folder)
    assert "own-model" not in list(TASKS)
    pd.testing.assert_frame_equal(loaded.comparison, found.comparison)
    assert loaded.task_names == ["own-model"]
    assert [one.position for one in loaded.explanations("gnnexplainer")] == parts_of(make_graphs())["test"]
    with pytest.raises(UserError, match=r"expected a cell among own-model · integrated-gradients.*; got graphmask"):
        loaded.explanations("graphmask")
    with pytest.raises(UserError, match="expected a folder that `run` wrote"):
        attribench.load("nowhere")


def test_the_model_and_the_graphs_stay_as_they_are() -> None:
    model, graphs = made().train(), make_graphs(12)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    attribench.explain(model, graphs, "integrated-gradients", progress=False)
    assert model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(set(data.to_dict()) == {"x", "edge_index"} for data in graphs)


def test_amortized_methods_want_graphs_to_fit_on() -> None:
    found = attribench.explain(made(), make_graphs(12), "graphmask,information-bottleneck", progress=False)
    reason = "skipped: it wants at least 50 graphs to fit on; there are 7"
    assert found.reasons == {"graphmask": reason, "information-bottleneck": reason}


@pytest.mark.parametrize("model", [made(OfData), made(Weighted), GIN(3, 8, 2, 2)])
def test_models_are_called_as_they_want_to_be(model: nn.Module) -> None:
    weights = {"edge_weight": lambda count: torch.linspace(0.1, 1, count)}
    graphs = make_graphs(12, **weights)
    output = None
    if isinstance(model, GIN):  # a row per node
        with pytest.raises(UserError, match=r"returns \(18, 2\), one per node: say what it means"):
            give(model, graphs)
        output = attribench.SequenceLabelling()
    given = give(model, graphs, output=output)
    test, positions = given.problem.splits["test"], given.positions
    one = graphs[positions[0]]
    batch = torch.zeros(6, dtype=torch.long)
    model.eval()
    with torch.no_grad():
        if isinstance(model, OfData):
            one.batch = batch
            expected = model(one)
        else:
            expected = model(one.x, one.edge_index, edge_weight=one.edge_weight, batch=batch)
        got = given.problem.model(test.graphs.select(torch.tensor([0])))
    assert torch.allclose(expected, got, atol=1e-6)


def test_labels_are_those_given_those_of_the_graphs_or_the_predictions() -> None:
    graphs = make_graphs(10)
    of_model = {name: split.labels for name, split in give(made(), graphs).problem.splits.items()}
    for data, y in zip(graphs, [0, 1] * 5, strict=True):
        data.y = torch.tensor([y])
    own = give(made(), graphs)
    assert own.problem.splits["test"].labels.tolist() == [i % 2 for i in own.positions]
    told = give(made(), graphs, labels=[1] * 10)
    assert told.problem.splits["train"].labels.tolist() == [1] * 6
    for data in graphs:
        data.y = torch.tensor([0.5])
    again = {name: split.labels for name, split in give(made(), graphs).problem.splits.items()}
    assert all(torch.equal(again[name], labels) for name, labels in of_model.items())
    with pytest.raises(UserError, match="expected one label for each of 10 graphs; got 3"):
        give(made(), graphs, labels=[0, 1, 0])


def test_graphs_to_fit_on_are_none_of_the_explained() -> None:
    given = give(made(), make_graphs(5), fit=make_graphs(40)[5:])
    assert {name: split.graphs.num_graphs for name, split in given.problem.splits.items()} == {
        "train": 26,
        "validation": 9,
        "test": 5,
    }
    assert given.positions == (0, 1, 2, 3, 4)


class Odd(Net):
    """One that wants what nobody knows."""

    def forward(self, nodes: Tensor, links: Tensor) -> Tensor:  # type: ignore[override]
        return nodes


class Broken(Net):
    """One that raises."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        raise ValueError("of its own")


class Several(Net):
    """One that returns several tensors."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Any:
        return super().forward(x, edge_index, batch), x


class Counts(Net):
    """One that counts its passes, for nobody."""

    passes = 0

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x, edge_index, batch)


class Drops(Net):
    """One whose dropout is never off."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x), edge_index, batch)


class Value(Net):
    """One value per graph."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        return super().forward(x, edge_index, batch)[:, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graphs": []}, "expected a list of torch_geometric.data.Data"),
        ({"graphs": [3]}, "expected a list of torch_geometric.data.Data"),
        ({"graphs": make_graphs(2)}, "expected at least 3 graphs.*; got 2: give graphs to fit on"),
        ({"fit": make_graphs(1)}, "expected at least 2 graphs to fit on"),
        (
            {"model": made(Odd)},
            r"expected a model with forward\(data\).*Odd wants nodes, links.*name what it",
        ),
        ({"model": made(Value)}, r"returns \(2,\), something else: say what it means, such as output=Binary"),
        (
            {"model": made(Odd), "arguments": ["x", "edge_index"]},
            "expected a model that runs on its graphs; Odd",
        ),
        (
            {"model": made(Broken)},
            r"expected a model that runs on its graphs; Broken raised ValueError: of its own \(test_own_model.py, line",
        ),
        (
            {"model": made(Broken), "output": GraphRegression(sigma=0.1)},
            r"Broken raised ValueError: of its own \(test_own_model.py, line",
        ),
        ({"model": made(Several), "output": GraphRegression(sigma=0.1)}, "from the model; Several returns tuple"),
        (
            {"output": SequenceLabelling()},
            r"split 'train': expected an output of shape \(36, C\), one row per node; got",
        ),
        ({"model": made(Counts)}, "; Counts has another Counts.passes after every pass: keep no counts"),
        ({"model": made(Drops)}, "; Drops draws at random: give functions such as F.dropout"),
        ({"name": "my model"}, "expected a task name of letters, digits, - and _; got 'my model'"),
        ({"name": "toy"}, "expected one task named 'toy'; got"),
        ({"methods": "grafmask"}, "Did you mean 'graphmask'"),
        ({"settings": {"gnnexplainer": {"steps": 0}}}, "gnnexplainer.steps"),
        ({"jbos": 3}, "expected options of a run among .*; got 'jbos'"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        attribench.explain(**{"model": made(), "graphs": make_graphs(10), "methods": "gnnexplainer", **arguments})
    assert "\n" not in str(error.value)
    assert "own-model" not in list(TASKS)


def test_a_model_that_cannot_be_explained_rightly_is_refused() -> None:
    class Random(Net):
        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
            return super().forward(x, edge_index, batch) + torch.rand(1)

    with pytest.raises(UserError, match="draw"):
        attribench.explain(made(Random), make_graphs(10), "gnnexplainer", progress=False)


def test_values_are_explained_where_it_is_said_what_they_mean() -> None:
    graphs = make_graphs(10)
    with torch.no_grad():
        for i, data in enumerate(graphs):
            data.y = made(Value)(data.x, data.edge_index, torch.zeros(6, dtype=torch.long)) + 0.1 * (-1) ** i
    found = attribench.explain(
        made(Value), graphs, "integrated-gradients", output=GraphRegression(sigma=0.1), progress=False
    )
    assert found.comparison["retained_mean"].notna().any()


def test_a_given_model_is_a_file_that_the_command_line_takes(tmp_path: Path) -> None:
    path = give(made(), make_graphs(12), name="mine").save(tmp_path)
    assert path.suffix == SUFFIX
    assert Given.load(path).name == "mine"
    (tmp_path / "bad.given").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"expected a given model; .*bad\.given: "):
        Given.load(tmp_path / "bad.given")


def test_files_of_given_models_that_no_run_was_made_with_are_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, out = make_graphs(12), tmp_path / "r"
    attribench.explain(made(), graphs, "integrated-gradients", out=out, progress=False)
    (first,) = (out / "given").glob("*.given")
    assert unused([out]) == []
    torch.manual_seed(4)
    attribench.explain(Net(), graphs, "integrated-gradients", out=out, progress=False)
    left = unused([out])
    assert first in left
    assert {path.parent.name for path in left} == {"given", "cells"}  # and the first model's cells
    assert set((out / "given").glob("*.given")) - set(left)
    size = first.stat().st_size
    assert size_of(first) == size > 0
    monkeypatch.setattr("sys.argv", ["attribench", "clean", str(out), "--yes"])
    with pytest.raises(SystemExit):
        main()
    assert unused([out]) == []
    assert not first.exists()
    assert len(list((out / "given").iterdir())) == 1


SCRIPT = """
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, global_add_pool
import attribench

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = GCNConv(3, 8), nn.Linear(8, 2)
    def forward(self, x, edge_index, batch):
        return self.out(global_add_pool(self.conv(x, edge_index).relu(), batch))

torch.manual_seed(0)
ring = torch.stack([torch.arange(5), (torch.arange(5) + 1) % 5])
graphs = [Data(x=torch.rand(5, 3), edge_index=ring) for _ in range(12)]
found = attribench.explain(Net(), graphs, "integrated-gradients", jobs=1, progress=False)
print("rows", len(found.comparison), len(found.to_pyg("integrated-gradients")))
"""


@pytest.mark.parametrize("notebook", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_class_of_a_script_or_a_notebook_travels_to_workers(tmp_path: Path, notebook: bool) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = ["-c", SCRIPT] if notebook else ["script.py"]  # -c has no source file either
    environment = {**os.environ, "PYTHONPATH": str(Path(attribench.__file__).parent.parent)}
    ended = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("rows 4 3") == 1, ended.stdout
    assert ended.stderr.count("nothing is reused") == (1 if notebook else 0)


class Listed(Net):
    """One whose answer depends on what no hash of its parts sees."""

    factors: Any = (1.0,)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        out: Tensor = super().forward(x, edge_index, batch) * self.factors[0]
        return out


def test_models_that_differ_in_what_they_say_are_different_ones() -> None:
    first, other = made(Listed), made(Listed)
    vars(other)["factors"] = [-2.0]
    labels = [0, 1] * 5
    contents = {give(model, make_graphs(10), labels=labels).content for model in (first, made(Listed), other)}
    assert len(contents) == 2


@pytest.mark.parametrize(
    ("y", "expected"), [(1, [1, 1]), (1.0, [1, 1]), (torch.tensor([[1]]), [1, 1]), (torch.tensor(1.0), [1, 1])]
)
def test_labels_of_any_type_are_labels(y: Any, expected: list[int]) -> None:
    graphs = make_graphs(10)
    for data in graphs:
        data.y = y
    assert give(made(), graphs).problem.splits["test"].labels.tolist() == expected


def test_labels_of_all_splits_are_of_one_kind(caplog: pytest.LogCaptureFixture) -> None:
    graphs = make_graphs(10)
    for i in set(range(10)) - {give(made(), graphs).positions[0]}:
        graphs[i].y = torch.tensor([1])
    given = give(made(), graphs)
    with torch.no_grad():
        for split in given.problem.splits.values():
            assert torch.equal(split.labels, given.problem.model(split.graphs).argmax(1))
    assert "not all graphs' y are labels" in caplog.text


def test_labels_that_do_not_fit_are_said_not_to(caplog: pytest.LogCaptureFixture) -> None:
    graphs = make_graphs(10)
    for data in graphs:
        data.y = torch.tensor([[0.0, 1.0]])  # one-hot
    give(made(), graphs)
    assert "not all graphs' y are labels of such an output" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": lambda data: data}, "expected a torch.nn.Module, not compiled or scripted; got function"),
        ({"model": None}, "expected a torch.nn.Module.*got NoneType"),
        ({"graphs": None}, "expected a list of torch_geometric.data.Data; got NoneType"),
        ({"graphs": make_graphs(1)[0]}, "expected a list of torch_geometric.data.Data; got Data"),
        ({"labels": ["a"] * 10}, "expected labels as numbers, one for each graph"),
        ({"labels": 3}, "expected one label for each of 10 graphs; got"),
        ({"name": 3}, "expected a name as text; got 3"),
        ({"task": "toy"}, "expected options of a run of methods on one model; got 'task'"),
        ({"settings": {"gnnexplainer": 3}}, "expected settings such as"),
        ({"settings": [1]}, "expected settings such as"),
    ],
)
def test_what_is_no_model_graph_or_option_is_said_in_a_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        attribench.explain(**{"model": made(), "graphs": make_graphs(10), "methods": "gnnexplainer", **arguments})
    assert "\n" not in str(error.value)
