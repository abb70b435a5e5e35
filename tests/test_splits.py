"""A problem's graphs in a results folder: they come back as they were, without the task's code, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WIDTH, random_batch
from pydantic import ValidationError
from torch import nn
from torch_geometric.nn import GCNConv, RGCNConv, TAGConv

from attribench import TASKS, Extras, NodeClassification, Problem, PyGModel, Split, TaskSeeds, UserError, Workshop
from attribench.base.arrays import read_arrays, write_arrays
from attribench.base.closure import modules_reached, plugin_modules
from attribench.base.files import digest, dump_checked
from attribench.base.pieces import Cell, ProblemSpec
from attribench.examining.layers import layer_names
from attribench.model.model import GraphModel
from attribench.plugins.configs import make_config
from attribench.plugins.registry import METHODS
from attribench.plugins.task import build_problem, without_cache
from attribench.running.plan import Plan
from attribench.running.runner import Runner
from attribench.storing.cells import CellStore
from attribench.storing.models import ModelCache
from attribench.storing.snapshot import stored_problem
from attribench.storing.stored_problem import SPLITS, StoredProblem, StoredSplit, problem_key

SMALL = {"train": 100, "validation": 12, "test": 10, "colours": 3, "width": 4, "hidden": 8, "epochs": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "toy": SMALL,
    "relay": {"train": 20, "validation": 12, "test": 10},
    "shared-layers": {"train": 20, "validation": 12, "test": 10},
    "srl-gnn": {"profile": "quick", "predicates": 50, "explained": 20, "epochs": 1, "width": 4},
}
KEY = "problem-" + "0123456789abcdef" * 2
Edit = Callable[[dict[str, Any], dict[str, np.ndarray]], Any]


def built(name: str) -> Problem:
    kind = TASKS[name]
    task = kind(make_config(name, kind.Config, OPTIONS[name]))
    return build_problem(task, TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))


def taken(problem: Problem, name: str = "sample") -> StoredProblem:
    with torch.no_grad():
        logits = {split: problem.model(problem.splits[split].graphs) for split in SPLITS}
    return stored_problem(problem, ProblemSpec(name, 0, 0), logits)


@pytest.fixture(scope="module", params=list(OPTIONS))
def pair(request: pytest.FixtureRequest) -> tuple[Problem, StoredProblem]:
    problem = built(request.param)
    return problem, taken(problem, request.param)


def assert_same(first: StoredProblem, second: StoredProblem) -> None:
    assert first.model_dump(exclude={"splits"}) == second.model_dump(exclude={"splits"})
    assert list(first.splits) == list(second.splits)
    for name, split in first.splits.items():
        other = second.splits[name]
        mine, theirs = dict(split.arrays()), dict(other.arrays())
        assert mine.keys() == theirs.keys()
        for place, array in mine.items():
            assert array.dtype == theirs[place].dtype, place
            np.testing.assert_array_equal(array, theirs[place])
        for level in ("node", "edge", "graph"):
            texts = [{n: x for n, x in getattr(s, level).items() if isinstance(x, tuple)} for s in (split, other)]
            assert texts[0] == texts[1]


def test_it_comes_back_as_it_was(pair: tuple[Problem, StoredProblem], tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    assert store.problem(KEY) is None
    store.save_problem(KEY, pair[1])
    back = store.problem(KEY)
    assert back is not None
    assert_same(back, pair[1])
    assert [path.name for path in (store.cells / KEY).iterdir()] == ["splits"]


def test_it_says_what_the_problem_says(pair: tuple[Problem, StoredProblem]) -> None:
    problem, stored = pair
    assert (stored.level, stored.edge_types) == (problem.output.level, problem.edge_types)
    assert len(stored.layers) == problem.findings.num_layers
    assert stored.class_names
    for name in SPLITS:
        split, kept = problem.splits[name], stored.splits[name]
        for part in ("node_ptr", "edge_ptr", "edge_index", "graph_key", "edge_key"):
            assert torch.equal(torch.from_numpy(getattr(kept, part)), getattr(split.graphs, part))
        assert kept.edge_type is not None
        assert kept.edge_type.tolist() == split.graphs["edge_type"].tolist()
        assert kept.labels.tolist() == split.labels.tolist()
        predicted = problem.output.predict(problem.model(split.graphs), split.graphs)
        assert kept.predictions.tolist() == predicted.tolist()
        assert (kept.gold is None) == (split.gold is None)
        if split.gold is not None and kept.gold is not None:
            assert torch.equal(torch.from_numpy(kept.gold), split.gold)


def test_what_the_tasks_say_beyond_graphs() -> None:
    toy, relay, shared, srl = (taken(built(name)) for name in OPTIONS)
    stars = toy.splits["test"]
    assert [stars.node["group"][i] for i in stars.node_ptr[:-1]] == ["centroid"] * 10
    assert set(stars.node["group"]) == {"centroid", "leaf"}
    assert np.shape(stars.graph["query"]) == (10, 2)
    assert (toy.layers, toy.class_names[1]) == (("layers.0",), "more x than y")
    paths = relay.splits["test"]
    assert [paths.node["group"][i : i + 2] for i in paths.node_ptr[:-1]] == [("start", "target")] * 10
    assert relay.layers == ("layers.0", "layers.1", "layers.2")
    assert shared.layers == ("layers.0",) * 3  # one module that runs in every layer
    said = srl.splits["test"]
    at = said.node_ptr[:-1] + np.asarray(said.graph["position"])
    assert [said.node["group"][i] for i in at] == ["predicate"] * 20
    for g, i in enumerate(at):
        assert str(said.graph["predicate"][g]).partition(".")[0] == said.graph["lemma"][g]
        assert str(said.node["part_of_speech"][i]).isupper()
    assert any(str(word) != str(word).lower() for word in said.node["name"])
    assert [role != "O" for role in said.node["role"]] == (said.labels > 0).tolist()
    known = {role for role, label in zip(said.node["role"], said.labels, strict=True) if label < len(srl.class_names)}
    assert known <= set(srl.class_names)


def test_extras_follow_their_graphs() -> None:
    graphs = random_batch()
    extras = Extras(
        {"name": [f"n{i}" for i in range(graphs.num_nodes)]},
        {"weight": torch.arange(graphs.num_edges) / 2},
        {"id": ["a", "b", "c"]},
    )
    part = Split(graphs, torch.arange(3), None, extras).select(torch.tensor([2, 0])).to(torch.device("cpu"))
    assert part.extras.graph == {"id": ["c", "a"]}
    assert part.extras.node == {"name": [f"n{i}" for i in (6, 7, 8, 9, 10, 0, 1, 2, 3)]}
    weight = part.extras.edge["weight"]
    assert isinstance(weight, torch.Tensor)
    assert torch.equal(weight * 2, torch.cat([torch.arange(8, 17), torch.arange(7)]))


class Sample(GraphModel):
    """Layers that are called in another order than they are registered, one of which sends twice."""

    def __init__(self) -> None:
        super().__init__()
        self.last = GCNConv(WIDTH, 2, add_self_loops=False)
        self.block = nn.ModuleDict({"twice": TAGConv(WIDTH, WIDTH, K=2)})
        self.first = RGCNConv(WIDTH, WIDTH, 3)

    def decode(self, graphs: Any, state: Any) -> torch.Tensor:
        h = self.first(graphs["x"], graphs.edge_index, graphs["edge_type"]).tanh()
        h = self.block["twice"].forward(h, graphs.edge_index)  # which runs no hook of forward()
        out: torch.Tensor = self.last(h, graphs.edge_index)
        return out


def test_layers_are_named_in_the_order_of_their_calls() -> None:
    model, graphs = Sample().train(), random_batch()
    assert layer_names(model, graphs) == ("first", "block.twice", "block.twice", "last")
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert layer_names(PyGModel(GCNConv(WIDTH, 2), "x", "edge_index"), graphs) == ("module",)


def nodes(**changes: Any) -> Problem:
    """A problem of target nodes with positions and extras."""
    graphs = random_batch(((4, 7), (2, 3), (5, 9)))
    position = torch.rand(graphs.num_nodes, 2)
    graphs = replace(
        graphs, node={**graphs.node, "pos": position}, graph={**graphs.graph, "target": torch.tensor([3, 0, 4])}
    )
    extras = Extras({"name": ["\x1b[31mred\u202e"] * 11}, {"cut": torch.rand(19) > 0.5}, {"size": torch.rand(3, 2)})
    split = replace(Split(graphs, torch.tensor([0, 1, 1]), None, extras), **changes)
    model = PyGModel(GCNConv(WIDTH, 2), "x", "edge_index").eval()
    return Problem(model, NodeClassification(), dict.fromkeys(("train", *SPLITS), split), ("a", "b", "c"))


def test_targets_positions_and_extras_of_every_level(tmp_path: Path) -> None:
    problem = nodes()
    store = CellStore(tmp_path)
    store.save_problem(KEY, taken(problem))
    back = store.problem(KEY)
    assert back is not None
    split = back.splits["validation"]
    assert split.targets is not None
    assert split.targets.tolist() == [[3], [0], [4]]
    assert split.pos is not None
    assert torch.equal(torch.from_numpy(split.pos), problem.splits["test"].graphs["pos"])
    assert split.node["name"] == ("?[31mred?",) * 11  # a terminal shows it as it is
    assert np.asarray(split.edge["cut"]).dtype == np.bool_
    assert np.asarray(split.graph["size"]).dtype == np.float32
    assert len(split.predictions) == 3
    large = replace(problem, splits={name: replace(s, extras=Extras()) for name, s in problem.splits.items()})
    key = torch.tensor([2**63 - 1, -(2**63), 0])  # no whole number is changed by how it is stored
    large.splits["test"] = replace(large.splits["test"], graphs=replace(large.splits["test"].graphs, graph_key=key))
    store.save_problem(KEY, taken(large))
    back = store.problem(KEY)
    assert back is not None
    assert back.splits["test"].graph_key.tolist() == key.tolist()


def test_edge_types_without_a_name_for_each_have_none() -> None:
    assert taken(replace(nodes(), edge_types=("a",))).edge_types == ()


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        (Extras({"name": ["a"] * 10}), "sample: expected 11 values of 'name', one per node"),
        (Extras({"group": torch.zeros(11)}), "expected texts as 'name' and 'group' of nodes"),
        (Extras(graph={"a/b": ["a"] * 3}), "expected extras with the names of Python identifiers; got 'a/b'"),
        (Extras(edge={"z": torch.zeros(19, dtype=torch.complex64)}), "expected truth values, whole or floating"),
    ],
)
def test_extras_that_do_not_fit_are_one_line(extras: Extras, message: str) -> None:
    with pytest.raises(UserError, match=message):
        taken(nodes(extras=extras))


def test_texts_that_could_not_be_read_again_are_refused(tmp_path: Path) -> None:
    extras = Extras(graph={"text": ["a" * 2**23, "b" * 2**23, "c"]})
    with pytest.raises(UserError, match="expected names and texts of at most 16777216 bytes in all"):
        CellStore(tmp_path).save_problem(KEY, taken(nodes(extras=extras)))
    assert CellStore(tmp_path).problem(KEY) is None


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Edit], StoredProblem | None]:
    """Return what is read once a stranger has changed what is stored; every checksum is right."""

    def edit(change: Edit) -> StoredProblem | None:
        store = CellStore(tmp_path)
        store.save_problem(KEY, taken(nodes()))
        folder = store.cells / KEY / "splits"
        content = json.loads((folder / "splits.json").read_text())["content"]
        arrays = read_arrays(folder / "splits.safetensors")
        change(content, arrays)
        content["checksum"] = write_arrays(folder / "splits.safetensors", arrays)
        dump_checked(folder / "splits.json", content)
        return store.problem(KEY)

    return edit


def test_a_strangers_edit_that_is_right_is_read(edited: Callable[[Edit], StoredProblem | None]) -> None:
    back = edited(lambda content, arrays: arrays.update({"test/labels": np.array([1, 1, 1], dtype=np.uint8)}))
    assert back is not None
    assert back.splits["test"].labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("test/labels", np.zeros(4)),
        ("test/labels", np.array(1)),
        ("test/predictions", np.zeros(0)),
        ("test/node_ptr", np.array([0, 4, 6, 2**40])),
        ("test/node_ptr", np.array([0, 4, 3, 11])),
        ("test/node_ptr", np.zeros(0, dtype=np.int64)),
        ("test/edge_ptr", np.array([0, 7, 10, 18])),
        ("test/edge_index", np.zeros((2, 19), dtype=np.int64)),
        ("test/edge_index", np.zeros((19,), dtype=np.int64)),
        ("test/edge_index", np.zeros((2, 19))),
        ("test/graph_key", np.zeros(3, dtype=np.int64)),
        ("test/edge_type", np.full(19, 3)),
        ("test/edge_type", np.full(19, -1)),
        ("test/gold", np.ones((2, 19), dtype=bool)),
        ("test/gold", np.ones((1, 18), dtype=bool)),
        ("test/gold", np.ones((1, 19), dtype=np.int64)),
        ("test/targets", np.array([[3], [2], [4]])),
        ("test/targets", np.array([[3, 3, 3]] * 3)),
        ("test/pos", np.zeros((11, 4))),
        ("test/node/name", np.full(11, 1)),
        ("test/node/name", np.full(11, -1)),
        ("test/node/name", np.zeros(10, dtype=np.int64)),
        ("test/node/name", np.zeros((11, 1), dtype=np.int64)),
        ("test/graph/size", np.zeros(4)),
        ("test/graph/bad name", np.zeros(3)),
        ("test/node", np.zeros(11)),
        ("test/new", np.zeros(11)),
        ("train/labels", np.zeros(3)),
        ("test/node/a/b", np.zeros(11)),
    ],
)
def test_arrays_of_a_stranger_that_do_not_fit_are_not_there(
    edited: Callable[[Edit], StoredProblem | None], place: str, value: np.ndarray
) -> None:
    assert edited(lambda content, arrays: arrays.update({place: value})) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda content, arrays: content.pop("about"),
        lambda content, arrays: content.update(schema=2),
        lambda content, arrays: content.update(texts=[]),
        lambda content, arrays: content["texts"].update({"test/node/name": "a"}),
        lambda content, arrays: content["texts"].update({"test/node/other": ["a"]}),
        lambda content, arrays: content["texts"].update({"test/node/name": [1]}),
        lambda content, arrays: content["texts"].update({"test/node/name": [["a"]]}),
        lambda content, arrays: content["about"].update(layers=[]),
        lambda content, arrays: content["about"].update(layers="abc"),
        lambda content, arrays: content["about"].update(level="edge"),
        lambda content, arrays: content["about"].update(class_names=["only"], level="graph", more=1),
        lambda content, arrays: content["about"].update(edge_types=["a", "b"]),
        lambda content, arrays: content["about"].update(data_seed="one"),
        lambda content, arrays: arrays.pop("test/labels"),
        lambda content, arrays: [arrays.pop(name) for name in list(arrays) if name.startswith("validation/")],
    ],
)
def test_what_a_stranger_says_beside_them_is_validated(
    edited: Callable[[Edit], StoredProblem | None], change: Edit
) -> None:
    assert edited(change) is None


def test_it_is_frozen_and_typed() -> None:
    split = taken(nodes()).splits["test"]
    with pytest.raises(ValidationError):
        split.labels = split.predictions
    with pytest.raises(ValidationError):
        StoredSplit(**{**dict(split), "labels": [0, 1, 1]})


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    plan = Plan(["toy"], ["integrated-gradients"], {"toy": SMALL}, [0], "cpu", randomised_graphs=0)
    return Runner(plan, CellStore(tmp_path / "r"), ModelCache(tmp_path / "c"))


@pytest.mark.parametrize("damage", ["splits.safetensors", "splits.json", None])
def test_what_is_damaged_or_missing_is_made_again(runner: Runner, damage: str | None) -> None:
    (spec,) = runner.plan.problems()
    key = runner.keys[spec]
    runner.perform(spec)
    first, folder = runner.store.problem(key), runner.store.cells / key / "splits"
    assert first is not None
    assert (first.task, first.data_seed, first.model_seed) == ("toy", 0, 0)
    assert runner.finished(spec)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in before if damage is None else [damage]:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-3])
        if damage is None:
            (folder / name).unlink()
    assert runner.store.problem(key) is None
    assert not runner.finished(spec)
    runner.perform(spec)
    assert runner.finished(spec)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_link_is_no_problem(runner: Runner, tmp_path: Path) -> None:
    (spec,) = runner.plan.problems()
    runner.perform(spec)
    folder = runner.store.cells / runner.keys[spec] / "splits"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert runner.store.problem(runner.keys[spec]) is None


def test_a_folder_is_read_without_the_code_that_made_it(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spec,), (cell,) = runner.plan.problems(), runner.plan.cells()
    runner.perform(spec)
    runner.perform(cell)
    expected = runner.keys[spec]
    key = runner.keys[cell]
    for registry in (TASKS, METHODS):
        monkeypatch.setattr(type(registry), "__getitem__", lambda self, name: pytest.fail(f"looks for {name}"))
    store = CellStore(tmp_path / "r")
    record = store.record(key)
    assert record is not None
    assert problem_key(record.content) == expected  # a cell says which problem it is of
    stored = store.problem(problem_key(record.content))
    assert stored is not None
    scores = store.attributions(key, record, torch.device("cpu"))["test"].scores
    assert scores.shape == (len(stored.layers), stored.splits["test"].num_edges)


def test_storing_is_no_part_of_any_key() -> None:
    roots = ("attribench.plugins.task", "attribench.explaining.job", "attribench.scoring.judge")
    reached = modules_reached(*roots, *plugin_modules(TASKS["toy"]), *plugin_modules(METHODS["graphmask"]))
    assert "attribench.scoring.judge" in reached
    assert (
        not {"attribench.storing.stored_problem", "attribench.storing.snapshot", "attribench.examining.layers"}
        & reached
    )
    assert digest({"task": "toy", "max_edges": 1}) == problem_key(
        {"task": "toy", "max_edges": 1, "method": "m", "fit_seed": 0}
    ).removeprefix("problem-")


def test_pieces_of_one_problem_have_one_key(runner: Runner) -> None:
    cell = Cell("toy", "integrated-gradients", 0, 0, 0)
    assert problem_key(runner.keys.cell_content(cell)) == runner.keys[cell.problem]
