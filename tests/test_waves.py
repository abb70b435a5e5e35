"""Messages that reach no row in common are removed in one pass, and greedy erasure finds what it finds without that."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import random_batch
from torch import Tensor, nn
from torch_geometric.nn import GraphConv

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.model.output import Output
from attribench.model.output_sequence import SequenceLabelling
from attribench.plugins.method import Attribution, Method, Subject
from attribench.plugins.registry import METHODS

greedy: Any = importlib.import_module("attribench.methods.erasure_greedy")
waves: Any = importlib.import_module("attribench.methods._waves")
subsets: Any = importlib.import_module("attribench.methods._subsets")

SIZES = ((9, 12), (3, 2), (12, 18), (1, 0), (7, 9))


class Labeller(GraphModel):
    """Logits of every node, after two layers; with ``shared`` all nodes of a graph also see its first node's state."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu, *, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList([GraphConv(4, 4), GraphConv(4, 4)])
        self.readout = nn.Linear(4, 3)
        self.activation, self.shared = activation, shared

    def encode(self, graphs: GraphBatch) -> Tensor:
        return graphs["x"]

    def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        for layer in self.layers:
            state = self.activation(layer(state, graphs.edge_index))
        if self.shared:
            state = state + state[graphs.node_ptr[:-1]][graphs.batch]
        logits: Tensor = self.readout(state)
        return logits


def swallowing(x: Tensor) -> Tensor:
    """ReLU, of which a NaN does not come out."""
    return torch.where(x > 0, x, torch.zeros_like(x))


def subject(model: GraphModel, output: Output | None = None) -> Subject:
    graphs = random_batch(SIZES)
    return Subject(model.eval(), output or SequenceLabelling(), graphs, graphs, 2)


def erased(of: Subject, graphs: GraphBatch, **options: Any) -> tuple[Attribution, int]:
    kind: type[Method] = METHODS["erasure-greedy"]
    method = kind(kind.Config(**options), subject=of)
    return method.attribute(graphs), method.forward_passes


def found(of: Subject, graphs: GraphBatch) -> Tensor | None:
    """Return what messages reach."""
    places = subsets.canonical_rank(graphs, 2)
    with Gates(of.model) as gates:
        reach: Tensor | None = waves.reached(gates, of.output, graphs, places, int(places.max()) + 1)
    return reach


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_what_is_found_in_waves_is_what_is_found_one_by_one(
    shared: bool, tolerance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, graphs = subject(Labeller(shared=shared)), random_batch(SIZES, seed=5)
    together, _ = erased(of, graphs, tolerance=tolerance)
    monkeypatch.setattr(greedy, "reached", lambda *_: None)
    one_by_one, _ = erased(of, graphs, tolerance=tolerance)
    assert torch.equal(together.scores, one_by_one.scores)
    assert torch.equal(together.hard_mask, one_by_one.hard_mask)  # type: ignore[arg-type]
    assert 0 < float(together.hard_mask.double().mean()) < 1  # type: ignore[union-attr]


def test_fewer_passes_are_made_where_messages_reach_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "MESSAGES_AT_ONCE", 1)  # one copy a pass
    of, graphs = subject(Labeller()), random_batch(((40, 45),), seed=5)
    _, passes = erased(of, graphs)
    monkeypatch.setattr(greedy, "reached", lambda *_: None)
    _, alone = erased(of, graphs)
    assert passes < 0.6 * alone


def test_a_message_reaches_the_rows_that_are_computed_from_it() -> None:
    graphs = random_batch(SIZES, seed=5)
    reach = found(subject(Labeller()), graphs)
    assert reach is not None
    places = subsets.canonical_rank(graphs, 2)
    there = torch.arange(reach.shape[1]) < 2 * graphs.num_edges_per_graph[:, None]
    targets = graphs.edge_index[1] - graphs.node_ptr[graphs.edge_graph]
    sources = graphs.edge_index[0] - graphs.node_ptr[graphs.edge_graph]
    for edge, graph in enumerate(graphs.edge_graph.tolist()):
        target = int(targets[edge])
        last = set(reach[graph, places[1, edge]].nonzero()[:, 0].tolist())
        assert last == {target}
        first = set(reach[graph, places[0, edge]].nonzero()[:, 0].tolist())
        mine = (graphs.edge_graph == graph) & (sources == target)
        assert first == {target, *targets[mine].tolist()}
    assert not reach[~there].any()
    shared = found(subject(Labeller(shared=True)), graphs)
    assert shared is not None
    hub = targets == 0
    graph = graphs.edge_graph[hub]
    assert shared[graph, places[1, hub]].sum(1).tolist() == graphs.num_nodes_per_graph[graph].tolist()
    assert (shared | ~reach).all()


def binned(x: Tensor) -> Tensor:
    """An embedding of the state's bins, for which a NaN is none."""
    return torch.arange(-50.0, 50.0)[(3 * x.clamp(-9, 9)).long() + 50].tanh()


def particular(x: Tensor) -> Tensor:
    if not bool(x.isfinite().all()):
        raise ValueError("expected finite states")
    return x.relu()


@pytest.mark.parametrize("activation", [swallowing, binned, particular])
def test_where_nan_does_not_come_out_there_is_one_message_in_a_pass(activation: Callable[[Tensor], Tensor]) -> None:
    graphs = random_batch(SIZES, seed=5)
    of = subject(Labeller(activation))
    assert found(of, graphs) is None
    assert 0 < float(erased(of, graphs)[0].scores.mean()) < 1


def test_an_outlier_among_the_outputs_does_not_hide_what_moves() -> None:
    """As of a class that a model rules out."""

    class Ruling(Labeller):
        def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
            return super().decode(graphs, state) + torch.tensor([0.0, 0.0, -1e9])

    assert found(subject(Ruling(swallowing)), random_batch(SIZES, seed=5)) is None


class Values(SequenceLabelling):
    """One number for every node, as an output of somebody's own may be."""

    def decide(self, rows: Tensor) -> Tensor:
        return (rows > 0).long()

    def row_divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        return (reference - rows).square()


class One(Labeller):
    def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        return super().decode(graphs, state)[:, :1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_output_of_one_column_and_any_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = random_batch(SIZES, seed=5).to(dtype)
    of = subject(One().to(dtype), Values())
    assert found(of, graphs) is not None
    together, _ = erased(of, graphs, tolerance=0.02)
    monkeypatch.setattr(greedy, "reached", lambda *_: None)
    one_by_one, _ = erased(of, graphs, tolerance=0.02)
    assert torch.equal(together.scores, one_by_one.scores)
    assert 0 < float(together.scores.mean()) < 1


def test_memory_out_is_not_taken_for_a_model_that_bears_no_nan() -> None:
    def full(x: Tensor) -> Tensor:
        if bool(x.isnan().any()):
            raise torch.OutOfMemoryError("out of memory")
        return x.relu()

    with pytest.raises(torch.OutOfMemoryError):
        found(subject(Labeller(full)), random_batch(SIZES, seed=5))


def test_a_mask_that_is_not_what_was_expected_is_looked_for_again_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    of, graphs = subject(Labeller()), random_batch(SIZES, seed=5)
    right, _ = erased(of, graphs)
    original = waves.reached

    def wrong(*given: Any) -> Tensor:
        reach: Tensor = original(*given).clone()
        reach[:, :, 1:] = False  # as if nothing but the first row could change
        return reach

    monkeypatch.setattr(greedy, "reached", wrong)
    again, _ = erased(of, graphs)
    assert torch.equal(right.scores, again.scores)


@pytest.mark.parametrize("seed", range(5))
def test_messages_of_one_colour_reach_no_row_in_common(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    reach = torch.rand(4, 17, 9, generator=draw) < 0.2
    reach[1] = False
    reach[2] = True
    colours = waves.coloured(reach)
    for graph in range(4):
        for colour in colours[graph].unique():
            assert (reach[graph, colours[graph] == colour].sum(0) <= 1).all()
    assert colours[1].max() == 0
    assert colours[2].tolist() == list(range(17))
    crowded = reach[0].sum(0).max()
    assert crowded <= colours[0].max() + 1 < 17
