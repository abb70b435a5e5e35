"""RGCNConv, which passes messages relation by relation, against FastRGCNConv and against a slow loop over edges."""

from collections.abc import Callable
from typing import Any, Optional

import pytest
import torch
from helpers import WIDTH, random_data_list
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import FastRGCNConv, RGCNConv
from torch_geometric.typing import OptTensor

from attribench.model.baseline import Baseline
from attribench.model.gates import Gates, UnsupportedModelError
from attribench.model.graphs import GraphBatch
from attribench.model.integrity import differences, fingerprint
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.configs import make_config
from attribench.plugins.method import Attribution, Subject
from attribench.plugins.registry import METHODS
from attribench.scoring.passes import masked_passes

RELATIONS = 4
"""Of which the graphs below have the first three alone: one is in no batch."""

KINDS: dict[str, dict[str, Any]] = {
    "mean": {},
    "add": {"aggr": "add"},
    "bases": {"num_bases": 2},
    "blocks": {"num_blocks": 2},
    "blocks, add": {"num_blocks": 2, "aggr": "add"},
    "against the edges": {"flow": "target_to_source"},
    "no root": {"root_weight": False, "bias": False},
}


class Model(GraphModel):
    """Two layers of different widths, and a readout of every graph's sum."""

    def __init__(self, layer: type[RGCNConv], **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([layer(w, 6, RELATIONS, **options) for w in (WIDTH, 6)])
        self.readout = nn.Linear(6, 3)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = graphs["x"]
        for layer in self.layers:
            h = layer(h, graphs.edge_index, graphs["edge_type"]).tanh()
        out: Tensor = self.readout(h.new_zeros(graphs.num_graphs, 6).index_add(0, graphs.batch, h))
        return out


def made(layer: type[RGCNConv], **options: Any) -> Model:
    """The weights are the same for both kinds of layers."""
    return Model(layer, **options).double().eval()


def batch(count: int, seed: int) -> GraphBatch:
    """Graphs with isolated nodes, parallel edges of one relation and of two, and no edges of some relation."""
    graphs = []
    for data in random_data_list([(5, 5), (3, 4)] * (count // 2), seed):
        first = data.edge_index[:, :1]
        data.edge_index = torch.cat([data.edge_index, first, first], 1)
        data.edge_type = torch.cat([data.edge_type, data.edge_type[:1], (data.edge_type[:1] + 1) % 3])
        data.x = torch.cat([data.x, torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed))])
        graphs.append(Data(x=data.x, edge_index=data.edge_index, edge_type=data.edge_type))
    graphs[0].edge_type = graphs[0].edge_type.clamp(max=1)
    return GraphBatch.from_data_list(graphs, ["x"], ["edge_type"]).to(torch.float64)


def subject(model: GraphModel) -> Subject:
    return Subject(model, GraphClassification(), batch(16, 1), batch(8, 2), 2)


def random(*shape: int, seed: int = 7) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equal(a: Attribution, b: Attribution) -> None:
    close: Callable[[Tensor, Tensor], None] = lambda x, y: torch.testing.assert_close(x, y, rtol=0, atol=1e-8)  # noqa: E731
    close(a.scores, b.scores)
    assert (a.hard_mask is None) == (b.hard_mask is None)
    if a.hard_mask is not None and b.hard_mask is not None:
        assert torch.equal(a.hard_mask, b.hard_mask)
    for x, y in zip(a.baselines or (), b.baselines or (), strict=True):
        close(x, y)
    assert a.diagnostics.keys() == b.diagnostics.keys()
    for name, value in a.diagnostics.items():
        close(value, b.diagnostics[name])


@pytest.mark.parametrize("kind", ["mean", "add", "bases", "blocks"])
@pytest.mark.parametrize("name", [*METHODS])
def test_both_kinds_of_layers_are_explained_alike(name: str, kind: str) -> None:
    found = []
    for layer in (RGCNConv, FastRGCNConv):
        explained = subject(made(layer, **KINDS[kind]))
        method = METHODS[name]
        if method.reason_against(explained) is not None:
            assert name == "gate-values"  # the model has none
            return
        one = method(make_config(name, method.Config, method.quick), subject=explained, seed=3)
        one.fit()
        graphs = batch(10, 3)
        found.append(one.attribute(graphs))
        found[-1].check(graphs, 2)
    equal(*found)
    assert float(found[0].scores.std()) > 0


@pytest.mark.parametrize("baseline", ["vector", "scalar"])
@pytest.mark.parametrize("kind", KINDS)
def test_non_amortized_graphmask_with_baselines_of_its_own(kind: str, baseline: str) -> None:
    method = METHODS["graphmask-nonamortized"]
    config = make_config(method.name, method.Config, {**method.quick, "baseline": baseline, "learning_rate": 0.1})
    graphs = batch(10, 3)
    subjects = [subject(made(layer, **KINDS[kind])) for layer in (RGCNConv, FastRGCNConv)]
    equal(*(method(config, subject=explained).attribute(graphs) for explained in subjects))


def by_hand(model: Model, graphs: GraphBatch, z: Tensor, baselines: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
    """Slow reference: every message W_r h_u on its own; the output, and the messages of each layer."""
    h, sent = graphs["x"], []
    for k, layer in enumerate(model.layers):
        assert isinstance(layer, RGCNConv)
        weight = layer.weight
        if layer.num_bases is not None:
            weight = torch.einsum("rb,bio->rio", layer.comp, weight)
        if layer.num_blocks is not None:
            weight = torch.stack([torch.block_diag(*blocks) for blocks in weight])
        u, v = graphs.edge_index if layer.flow == "source_to_target" else graphs.edge_index.flip(0)
        out = torch.zeros(graphs.num_nodes, 6).double()
        out += 0 if layer.root is None else h @ layer.root
        out += 0 if layer.bias is None else layer.bias
        rows = []
        for e, r in enumerate(graphs["edge_type"].tolist()):
            rows.append(h[u[e]] @ weight[r])
            b = 0.0 if baselines is None else baselines[k]
            b = b[int(graphs.edge_graph[e])] if isinstance(b, Tensor) and b.dim() == 2 else b
            same = int(((v == v[e]) & (graphs["edge_type"] == r)).sum())
            share = 1 / same if layer.aggr == "mean" else 1
            out[v[e]] += share * (z[k, e] * rows[-1] + (1 - z[k, e]) * b)
        sent.append(torch.stack(rows))
        h = out.tanh()
    return model.readout(h.new_zeros(graphs.num_graphs, 6).index_add(0, graphs.batch, h)), sent


@pytest.mark.parametrize("baseline", ["zero", "one", "scalar", "per graph"])
@pytest.mark.parametrize("kind", KINDS)
def test_gated_pass_is_equation_3(kind: str, baseline: str) -> None:
    model, graphs = made(RGCNConv, **KINDS[kind]), batch(4, 3)
    shape = {"zero": None, "one": (6,), "scalar": (1,), "per graph": (4, 6)}[baseline]
    baselines = None if shape is None else [random(*shape, seed=k) - 0.5 for k in range(2)]
    with torch.no_grad():
        plain = model(graphs)
    with Gates(model, replay=True) as gates:
        recording = gates.record(graphs)
        assert recording.num_layers == 2
        assert torch.equal(recording.logits, plain)
        assert torch.equal(recording.forward(recording.ones()), plain)
        assert torch.equal(recording.forward(recording.ones(), baselines), plain)
        assert torch.equal(recording.forward([None, None]), plain)
        z = random(2, graphs.num_edges)
        gated = recording.forward(z, baselines)
        if baselines is not None:
            rows = [b.expand(4, 6)[graphs.edge_graph] for b in baselines]
            assert torch.equal(recording.forward(z, [Baseline.per_edge(b) for b in rows]), gated)
    with torch.no_grad():
        expected, sent = by_hand(model, graphs, z, baselines)
        ungated, _ = by_hand(model, graphs, recording.ones(), None)
    torch.testing.assert_close(ungated, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gated, expected, rtol=1e-12, atol=1e-12)
    for call, messages, h in zip(recording.calls, by_hand(model, graphs, recording.ones(), None)[1], sent, strict=True):
        torch.testing.assert_close(call.messages, messages.detach(), rtol=1e-12, atol=1e-12)
        assert call.width == h.shape[1] == 6


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_those_of_the_layer_that_makes_one(kind: str) -> None:
    graphs, recordings = batch(6, 4), []
    for layer in (RGCNConv, FastRGCNConv):
        with Gates(made(layer, **KINDS[kind])) as gates:
            recordings.append(gates.record(graphs))
    for ours, theirs in zip(recordings[0].calls, recordings[1].calls, strict=True):
        torch.testing.assert_close(ours.inputs(), theirs.inputs(), rtol=1e-12, atol=1e-12)
        assert torch.equal(ours.source, theirs.source)
        assert ours.carried is not None
        assert [graphs["edge_type"][edges].unique().tolist() for edges in ours.carried] == [[0], [1], [2], []]
        assert torch.cat(ours.carried).sort()[0].tolist() == list(range(graphs.num_edges))
        assert theirs.carried is None


def test_a_graph_alone_and_a_part_of_a_batch_give_what_the_batch_gives() -> None:
    """Some relations have no edges there."""
    graphs = batch(8, 3)
    with Gates(made(RGCNConv), replay=True) as gates:
        recording = gates.record(graphs)
        z, baselines = random(2, graphs.num_edges), [random(6, seed=1), random(8, 6)]
        whole = recording.forward(z, baselines)
        stream = gates.stream(graphs, max_edges=8)
        torch.testing.assert_close(masked_passes(stream, [z], baselines)[0], whole, rtol=1e-12, atol=1e-12)
        for g in range(graphs.num_graphs):
            index = torch.tensor([g])
            alone, edges = gates.record(graphs.select(index)), graphs.edges_of(index)
            own = [baselines[0], baselines[1][index]]
            torch.testing.assert_close(alone.forward(z[:, edges], own)[0], whole[g], rtol=1e-12, atol=1e-12)
            for call, of_all in zip(alone.calls, recording.calls, strict=True):
                torch.testing.assert_close(call.inputs(), of_all.inputs()[edges], rtol=1e-12, atol=1e-12)
        assert not len(gates.record(graphs.select(torch.tensor([0]))).graphs["edge_type"].eq(2).nonzero())


def test_gradients_of_gates_and_baselines() -> None:
    graphs = batch(2, 5)
    with Gates(made(RGCNConv)) as gates:
        recording = gates.record(graphs)
        z = random(2, graphs.num_edges).requires_grad_()
        baselines = [random(2, 6, seed=k).requires_grad_() for k in range(2)]
        assert torch.autograd.gradcheck(lambda z, *b: recording.forward(z, b), (z, *baselines))


def test_loops_that_the_model_appends_stay_open() -> None:
    class Looped(Model):
        def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
            loops = torch.arange(graphs.num_nodes).expand(2, -1)
            edges = torch.cat([graphs.edge_index, loops], 1)
            kinds = torch.cat([graphs["edge_type"], torch.full_like(loops[0], 3)])
            h = self.layers[1](self.layers[0](graphs["x"], edges, kinds).tanh(), edges, kinds)
            return h.new_zeros(graphs.num_graphs, 6).index_add(0, graphs.batch, h)  # type: ignore[no-any-return]

    graphs, outputs = batch(4, 6), []
    for layer in (RGCNConv, FastRGCNConv):
        with Gates(Looped(layer).double().eval()) as gates:
            recording = gates.record(graphs)
            z, baselines = random(2, graphs.num_edges), [random(6, seed=1), random(4, 6)]
            outputs.append(recording.forward(z, baselines))
            assert len(recording.calls[0].messages) == graphs.num_edges + graphs.num_nodes
            assert recording.calls[0].inputs().shape == (graphs.num_edges, 2 * WIDTH + 6)
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


def test_hooks_on_the_output_see_the_gated_output() -> None:
    model, graphs, seen = made(RGCNConv), batch(2, 7), list[Tensor]()
    model.layers[1].register_forward_hook(lambda layer, args, output: seen.append(output))
    model.layers[1].register_forward_hook(lambda layer, args, output: 2 * output)
    with Gates(model) as gates:
        recording = gates.record(graphs)
        z, b = recording.ones(), [torch.ones(6).double()] * 2
        z[1] = 0
        recording.forward(z)
        recording.forward(z, b)
    expected = graphs.edge_index[1].bincount(minlength=graphs.num_nodes) > 0
    assert torch.equal((seen[2] != seen[1]).all(1), expected)


def test_left_as_found_after_success_and_after_an_error() -> None:
    model, graphs = made(RGCNConv), batch(4, 8)
    before = fingerprint(model, graphs)
    armed: list[int] = []

    def fail(*_: Any) -> None:
        armed.append(1)
        if len(armed) == 6:
            raise RuntimeError("on purpose")

    with Gates(model) as gates:
        recording = gates.record(graphs)
        gated = recording.forward(recording.ones() * 0.5)
        handle = model.layers[1].register_message_forward_pre_hook(fail)  # type: ignore[operator]
        gates.record(graphs)
        with pytest.raises(RuntimeError, match="on purpose"):
            recording.forward(recording.ones() * 0.5)  # in the second relation
        handle.remove()
        assert torch.equal(recording.forward(recording.ones() * 0.5), gated)
    assert differences(before, fingerprint(model, graphs)) == []


@pytest.mark.parametrize("place", ["aggregate_forward_pre", "aggregate_forward", "propagate_forward"])
def test_hooks_between_messages_and_output_are_refused(place: str) -> None:
    """What baselines add to the output is right where sums and means are all that lies between."""
    model, graphs = made(RGCNConv), batch(4, 8)
    getattr(model.layers[1], f"register_{place}_hook")(lambda *_: None)
    before = fingerprint(model, graphs)
    with pytest.raises(UnsupportedModelError, match="hooks between its messages and its output"):
        Gates(model).__enter__()
    assert differences(before, fingerprint(model, graphs)) == []
    plain = made(RGCNConv)
    with Gates(plain) as gates, Gates(plain) as inner:
        assert torch.equal(gates.record(graphs).logits, inner.record(graphs).logits)


class Renames(Model):
    """Passes messages over edges whose types come from the nodes' states."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.layers[0](graphs["x"], graphs.edge_index, graphs["edge_type"])
        kinds = (h[graphs.edge_index[0], 0] > 0).long()
        h = self.layers[1](h, graphs.edge_index, kinds)
        return h.new_zeros(graphs.num_graphs, 6).index_add(0, graphs.batch, h)  # type: ignore[no-any-return]


def test_relations_that_depend_on_messages_are_refused() -> None:
    graphs = batch(4, 9)
    with Gates(Renames(RGCNConv).double()) as gates:
        recording = gates.record(graphs)
        assert torch.equal(recording.forward(recording.ones()), recording.logits)
        with pytest.raises(UnsupportedModelError, match="other relations than in the unmasked pass"):
            recording.forward(recording.ones() * 0)


class Once(GraphModel):
    """One layer, called as is said."""

    def __init__(self, layer: nn.Module, call: Callable[[Any, GraphBatch], Tensor]) -> None:
        super().__init__()
        self.layer, self.call = layer.double(), call

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        return self.call(self.layer, graphs)


class OwnSum(RGCNConv):
    """Aggregates in a way of its own."""

    def aggregate(
        self,
        inputs: Tensor,
        index: Tensor,
        ptr: OptTensor = None,
        dim_size: Optional[int] = None,  # noqa: UP045 - PyG 2.6 reads no other
    ) -> Tensor:
        out: Tensor = super().aggregate(inputs.square(), index, ptr, dim_size)
        return out


def in_place(layer: Any, graphs: GraphBatch) -> Tensor:
    h, kinds = graphs["x"] * 1, graphs["edge_type"] * 1
    out: Tensor = layer(h, graphs.edge_index, kinds)
    h.zero_()
    kinds.zero_()
    return out


def test_what_the_model_changes_afterwards_was_seen_before() -> None:
    graphs, options = batch(4, 12), []
    torch.manual_seed(0)
    convolution = layer()
    for call in (plainly, in_place):
        with Gates(Once(convolution, call)) as gates:
            recording = gates.record(graphs)
            options.append([recording.calls[0].inputs(), recording.forward(recording.ones() / 2, [random(6)])])
            assert bool(recording.changed) == (call is in_place)
    assert all(torch.equal(a, b) for a, b in zip(*options, strict=True))


class Weighted(RGCNConv):
    """Sends half of what it would."""

    def message(self, x_j: Tensor, edge_type_ptr: OptTensor) -> Tensor:
        return x_j / 2


def plainly(layer: Any, graphs: GraphBatch) -> Tensor:
    out: Tensor = layer(graphs["x"], graphs.edge_index, edge_type=graphs["edge_type"])
    return out


def layer(kind: type[RGCNConv] = RGCNConv, **options: Any) -> RGCNConv:
    return kind(WIDTH, 6, RELATIONS, **options)


REFUSED: dict[str, tuple[GraphModel, str]] = {
    "maxima": (Once(layer(aggr="max"), plainly), "by MaxAggregation.*use aggr='add' or aggr='mean'"),
    "own aggregation": (Once(layer(OwnSum), plainly), "one relation at a time.*with their own forward and aggregate"),
    "decomposed": (Once(layer(decomposed_layers=2), plainly), "decomposed_layers=1"),
    "node numbers": (
        Once(RGCNConv(100, 6, RELATIONS), lambda m, g: m(torch.arange(g.num_nodes), g.edge_index, g["edge_type"])),
        "floating-point node states",
    ),
    "no node states": (
        Once(RGCNConv(100, 6, RELATIONS), lambda m, g: m(None, g.edge_index, g["edge_type"])),
        "floating-point node states",
    ),
    "edges left out": (
        Once(layer(num_blocks=2), lambda m, g: m(g["x"], g.edge_index, g["edge_type"] + 2)),
        "none over edges that have another type: use edge types from 0 to 3",
    ),
    "other order": (
        Once(layer(), lambda m, g: m(g["x"], g.edge_index.flip(1), g["edge_type"])),
        "one relation at a time|in another order",
    ),
    "forward alone": (
        Once(layer(), lambda m, g: m.forward(g["x"], g.edge_index, g["edge_type"])),
        r"layer\(x, edge_index, edge_type\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_to_use_and_leave_the_model_alone(name: str) -> None:
    model, message = REFUSED[name]
    graphs = batch(4, 10)
    before = fingerprint(model, graphs)
    with pytest.raises(UnsupportedModelError, match=message) as refusal, Gates(model) as gates:
        gates.record(graphs)
    assert "\n" not in str(refusal.value)
    assert differences(before, fingerprint(model, graphs)) == []


def test_messages_of_a_subclass_are_what_it_sends() -> None:
    graphs = batch(4, 11)
    torch.manual_seed(0)
    model = Once(layer(Weighted), plainly)
    with Gates(model) as gates:
        recording = gates.record(graphs)
        half, root = recording.forward(recording.ones() * 0.5), recording.forward(recording.ones() * 0)
    weight, edge_type = model.layer.weight, graphs["edge_type"]
    assert isinstance(weight, Tensor)
    expected = torch.einsum("ei,eio->eo", graphs["x"][graphs.edge_index[0]] / 2, weight[edge_type])
    torch.testing.assert_close(recording.calls[0].messages, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(half - root, (recording.logits - root) / 2, rtol=1e-12, atol=1e-12)
