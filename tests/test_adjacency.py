"""Layers of adjacency matrices are gated on their entries exactly as layers with a message for every edge (Eq. 10)."""

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import WIDTH, random_batch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.nn import GCNConv, MessagePassing

from attribench.checking.methods import RELATIONS, coalesced
from attribench.model.adjacency import AdjacencyLayer, Padding
from attribench.model.adjacency_driver import AdjacencyCall
from attribench.model.baseline import Baseline
from attribench.model.driver_list import layers_without_messages
from attribench.model.gates import Gates, UnsupportedModelError
from attribench.model.graphs import GraphBatch
from attribench.model.integrity import differences, fingerprint
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.configs import make_config
from attribench.plugins.method import Method
from attribench.plugins.registry import METHODS
from attribench.plugins.task import SPLITS, Problem, Split

WIDE = 64
"""Width of states where it matters that there are fewer nodes than edges."""


def simple(sizes: list[tuple[int, int]], seed: int = 0) -> GraphBatch:
    """Random graphs in float64 with at most one edge of a relation from a node to another."""
    graphs = random_batch(sizes, seed).to(torch.float64)
    return coalesced(graphs)


class DenseRGCN(AdjacencyLayer):
    """A relation's messages, averaged over the node's edges of that relation."""

    def __init__(self, width: int = WIDTH, relation: str | None = "edge_type") -> None:
        super().__init__(relation)
        self.weight = nn.Parameter(torch.randn(RELATIONS, width, width))
        self.root = nn.Linear(width, width)

    def forward(self, h: Tensor, adjacency: Tensor) -> Tensor:
        messages = torch.einsum("gvi,rio->grvo", h, self.weight)
        out: Tensor = (self.aggregate(adjacency, messages) + self.root(h)).tanh()
        return out


class ListRGCN(MessagePassing):
    """The same with a message for every edge; what averages comes after the gates."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__(aggr="sum")
        self.weight = nn.Parameter(torch.randn(RELATIONS, width, width))
        self.root = nn.Linear(width, width)

    def forward(self, h: Tensor, edge_index: Tensor, edge_type: Tensor, share: Tensor) -> Tensor:
        sums: Tensor = self.propagate(edge_index, x=h, edge_type=edge_type, share=share)
        return torch.tanh(sums + self.root(h))

    def message(self, x_j: Tensor, edge_type: Tensor) -> Tensor:
        return (x_j[:, None] @ self.weight[edge_type])[:, 0]

    def aggregate(self, inputs: Tensor, index: Tensor, share: Tensor, dim_size: int) -> Tensor:
        return inputs.new_zeros(dim_size, inputs.shape[1]).index_add(0, index, share[:, None] * inputs)


def shares(graphs: GraphBatch) -> Tensor:
    """One over the number of a node's edges of a relation, for every edge ``(E,)``."""
    place = graphs.edge_index[1] * RELATIONS + graphs["edge_type"]
    return place.bincount(minlength=graphs.num_nodes * RELATIONS)[place].double().reciprocal()


class Dense(GraphModel):
    """Layers on padded graphs; a sum over nodes at the end."""

    def __init__(self, layers: int = 2, layer: Any = DenseRGCN, width: int = WIDTH) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(layer(**({} if width == WIDTH else {"width": width})) for _ in range(layers))
        self.readout = nn.Linear(width, 2)

    def adjacency(self, graphs: GraphBatch, padding: Padding) -> Tensor:
        return padding.matrices(shares(graphs).to(graphs["x"].dtype))

    def padding(self, graphs: GraphBatch) -> Padding:
        return Padding.of(graphs, graphs["edge_type"], RELATIONS)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        padding = self.padding(graphs)
        adjacency, h = self.adjacency(graphs, padding), padding.pad(graphs["x"])
        for layer in self.layers:
            h = layer(h, adjacency)
        whole = h.new_zeros(graphs.num_graphs, h.shape[-1]).index_add(0, graphs.batch, padding.nodes(h))
        out: Tensor = self.readout(whole)
        return out


class List(GraphModel):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(ListRGCN() for _ in range(layers))
        self.readout = nn.Linear(WIDTH, 2)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h, share = graphs["x"], shares(graphs)
        for layer in self.layers:
            h = layer(h, graphs.edge_index, graphs["edge_type"], share)
        out: Tensor = self.readout(h.new_zeros(graphs.num_graphs, WIDTH).index_add(0, graphs.batch, h))
        return out


SIZES = [(4, 9), (2, 1), (6, 14), (3, 0), (1, 0)]


def both() -> tuple[GraphModel, GraphModel]:
    dense, listed = Dense().double(), List().double()
    listed.load_state_dict(dense.state_dict())
    return dense, listed


def test_padding_puts_nodes_and_edges_where_they_are_found_again() -> None:
    graphs = simple(SIZES)
    padding = Padding.of(graphs, graphs["edge_type"], RELATIONS)
    assert padding.shape == (5, RELATIONS, 6, 6)
    assert torch.equal(padding.nodes(padding.pad(graphs["x"])), graphs["x"])
    values = torch.arange(graphs.num_edges) + 1.0
    matrices = padding.matrices(values)
    assert matrices.count_nonzero() == graphs.num_edges
    local = graphs.edge_index - graphs.node_ptr[graphs.edge_graph]
    assert torch.equal(matrices[graphs.edge_graph, graphs["edge_type"], local[1], local[0]], values)
    assert Padding.of(graphs, graphs["edge_type"], RELATIONS, 9).shape[-1] == 9


def test_entries_are_gated_as_messages_are_with_baselines_of_every_kind() -> None:
    graphs, draw = simple(SIZES), torch.Generator().manual_seed(1)
    edges, count = graphs.num_edges, graphs.num_graphs

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    z = random(2, edges)
    choices: list[Any] = [
        None,
        [random(WIDTH), random(WIDTH)],
        [random(count, WIDTH), random(count, 1)],
        [Baseline.per_edge(random(edges, WIDTH)), Baseline.per_edge(random(edges, 1))],
        [random(1), Baseline.per_edge(random(edges, WIDTH))],
    ]
    found = []
    for model in both():
        before = fingerprint(model, graphs)
        with Gates(model) as gates:
            recording = gates.record(graphs)
            found.append([recording.logits, *(recording.forward(z, choice) for choice in choices)])
            found[-1].append(recording.forward([None, z[1]], choices[1]))
            assert torch.equal(recording.forward(recording.ones()), recording.logits)
            assert torch.equal(recording.forward(recording.ones(), choices[1]), recording.logits)
            call = recording.calls[1]
        assert differences(before, fingerprint(model, graphs)) == []
        assert (call.width, call.h_source.shape) == (WIDTH, (graphs.num_nodes, WIDTH))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_gradients_of_gates_and_baselines_are_those_of_messages_and_right() -> None:
    graphs, draw = simple(SIZES), torch.Generator().manual_seed(1)
    given = [torch.rand(2, graphs.num_edges, generator=draw).double(), *torch.rand(2, WIDTH, generator=draw).double()]
    found = []
    for model in both():
        inputs = [x.clone().requires_grad_() for x in given]
        with Gates(model) as gates:
            recording = gates.record(graphs)
            logits = recording.forward(inputs[0], inputs[1:])
            found.append(torch.autograd.grad(logits[:, 0].sum(), inputs))
            if isinstance(model, Dense):
                torch.autograd.gradcheck(lambda z, *b, record=recording: record.forward(z, b), inputs)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_graphs_are_gated_the_same_alone_and_padded_beside_larger_ones() -> None:
    graphs = simple(SIZES)
    z = torch.rand(2, graphs.num_edges, generator=torch.Generator().manual_seed(1)).double()
    with Gates(Dense().double()) as gates:
        whole = gates.record(graphs).forward(z)
        for g in range(graphs.num_graphs):
            index = torch.tensor([g])
            alone = gates.record(graphs.select(index)).forward(z[:, graphs.edges_of(index)])
            torch.testing.assert_close(alone[0], whole[g], rtol=1e-12, atol=1e-12)


class DenseGCN(AdjacencyLayer):
    """A graph convolution of Kipf & Welling as many write it, with loops in the matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, *, x: Tensor, adjacency: Tensor) -> Tensor:
        out: Tensor = self.aggregate(messages=self.linear(x), adjacency=adjacency).relu()
        return out


class GCN(GraphModel):
    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.dense = dense
        self.layers = nn.ModuleList(DenseGCN() if dense else GCNConv(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.readout = nn.Linear(WIDTH, 2)
        draw = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=draw)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = graphs["x"]
        padding = Padding.of(graphs)
        a = padding.matrices(h.new_ones(graphs.num_edges)) + torch.eye(padding.shape[-1]).to(h)
        scale = a.sum(-1)[:, 0].rsqrt()
        a = scale[..., None] * a[:, 0] * scale[:, None]
        for layer in self.layers:
            if self.dense:
                h = padding.nodes(layer(x=padding.pad(h), adjacency=a))
            else:
                h = layer(h, graphs.edge_index).relu()
        out: Tensor = self.readout(h.new_zeros(graphs.num_graphs, WIDTH).index_add(0, graphs.batch, h))
        return out


def test_a_dense_gcn_is_driven_as_pygs_is() -> None:
    graphs = simple(SIZES)
    graphs = graphs.keep_edges(graphs["edge_type"] == 0)  # one relation, so that no two edges are one entry
    z = torch.rand(2, graphs.num_edges, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for dense in (True, False):
        with Gates(GCN(dense).double()) as gates:
            recording = gates.record(graphs)
            found.append([recording.logits, recording.forward(z)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_problem_of_such_layers_is_sound_and_says_that_it_sends_no_vectors() -> None:
    splits = {
        name: Split(coalesced(random_batch([(4, 6)] * 10, i)), torch.arange(10) % 2) for i, name in enumerate(SPLITS)
    }
    model = Dense()
    assert Problem(model, GraphClassification(), splits).findings.num_layers == 2
    assert set(layers_without_messages(model)) == {"DenseRGCN"}


class Beside(DenseRGCN):
    """Also lets nodes hear of each other out of the gates' reach."""

    def forward(self, h: Tensor, adjacency: Tensor) -> Tensor:
        return super().forward(h, adjacency) + adjacency.sum(1) @ h


def test_what_goes_beside_the_sum_of_messages_is_refused() -> None:
    splits = {
        name: Split(coalesced(random_batch([(4, 6)] * 10, i)), torch.arange(10) % 2) for i, name in enumerate(SPLITS)
    }
    with pytest.raises(UnsupportedModelError, match="expected nothing to go over edges but the layers' messages"):
        _ = Problem(Dense(layer=Beside), GraphClassification(), splits).findings


class Turned(Dense):
    def adjacency(self, graphs: GraphBatch, padding: Padding) -> Tensor:
        return super().adjacency(graphs, padding).transpose(-1, -2)


class Single(Dense):
    def adjacency(self, graphs: GraphBatch, padding: Padding) -> Tensor:
        return super().adjacency(graphs, padding)[:, 0]


class Small(Dense):
    def adjacency(self, graphs: GraphBatch, padding: Padding) -> Tensor:
        return super().adjacency(graphs, padding) > 0


class Partly(Dense):
    def adjacency(self, graphs: GraphBatch, padding: Padding) -> Tensor:
        return super().adjacency(graphs, padding) * torch.tensor([1.0, 1, 0])[:, None, None].double()


class Named(DenseRGCN):
    def __init__(self) -> None:
        super().__init__(relation="kind")


class Early(Dense):
    def encode(self, graphs: GraphBatch) -> Tensor:
        return self.decode(graphs, None)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Turned(),
            r"has \d+ entries that are no edges of the graphs, such as that of relation \d from node \d to node \d",
        ),
        (Single(), r"aggregates matrices of shape \(5, 6, 6\) and messages of shape \(5, 3, 6, 4\) of 5 graphs"),
        (Small(), "has matrices of torch.bool, which no gate can multiply"),
        (
            Dense(layer=Named),
            "has a matrix for every 'kind' of edges, which have none: use relation=, one of edge_type",
        ),
        (Partly(), r"has entries of 0 for \d+ of \d+ edges, which would be gated and send nothing"),
        (Early(), "passes messages in encode"),
    ],
)
def test_what_cannot_be_gated_is_refused(model: GraphModel, message: str) -> None:
    with Gates(model.double()) as gates, pytest.raises(UnsupportedModelError, match=message):
        gates.record(simple(SIZES))


def test_edges_that_are_one_entry_and_relations_without_a_matrix_are_refused() -> None:
    graphs = simple(SIZES)
    with Gates(Dense()) as gates, pytest.raises(UnsupportedModelError, match="has one entry for several edges"):
        gates.record(random_batch([(2, 9)]))
    with pytest.raises(UnsupportedModelError, match="expected a relation from 0 to 1 for each of"):
        Padding.of(graphs, graphs["edge_type"], 2)


def test_pairs_of_targets_and_sources_are_multiplied_for_every_edge() -> None:
    graphs, draw = simple(SIZES), torch.Generator().manual_seed(1)
    targets = torch.randn(graphs.num_nodes, RELATIONS, 7, generator=draw).double()
    sources = torch.randn(graphs.num_nodes, 7, generator=draw).double()
    with Gates(Dense().double()) as gates:
        call = gates.record(graphs).calls[0]
    assert isinstance(call, AdjacencyCall)
    assert call.num_relations == RELATIONS
    assert [part.shape for part in call.read()] == [(graphs.num_nodes, WIDTH)]
    source, target = graphs.edge_index
    expected = (targets[target, graphs["edge_type"]] * sources[source]).sum(1)
    torch.testing.assert_close(call.pairs(targets, sources), expected)


class Widest(TorchDispatchMode):
    """Takes note of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.most = max(self.most, x.numel())
        return out


@pytest.mark.parametrize(
    "name", ["graphmask", "graphmask-nonamortized", "gnnexplainer", "information-bottleneck", "integrated-gradients"]
)
def test_no_method_makes_a_vector_for_every_edge(name: str) -> None:
    """All operations, forwards and backwards, return less than half of what E vectors of D numbers would take."""
    nodes = 40
    pairs = torch.cartesian_prod(torch.arange(nodes), torch.arange(nodes))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].T
    draw = torch.Generator().manual_seed(0)
    splits = {}
    for k, split in enumerate(SPLITS):
        graphs = replace(
            random_batch([(nodes, pairs.shape[1])] * 2, k),
            edge_index=torch.cat([pairs, pairs + nodes], dim=1),
            edge={"edge_type": torch.randint(RELATIONS, (2 * pairs.shape[1],), generator=draw)},
            node={"x": torch.randn(2 * nodes, WIDE, generator=draw)},
        )
        splits[split] = Split(graphs, torch.tensor([0, 1]))
    problem = Problem(Dense(width=WIDE).eval(), GraphClassification(), splits)
    kind: type[Method] = METHODS[name]
    method = kind(make_config(name, kind.Config, kind.quick), subject=problem.subject())
    with Widest() as seen:
        method.fit()
        method.attribute(splits["test"].graphs)
    messages = splits["test"].graphs.num_edges
    assert messages * RELATIONS <= seen.most < messages * WIDE / 2


def test_graphmask_takes_the_bilinear_gate_of_eq_9() -> None:
    graphs = simple(SIZES)
    kinds: Any = importlib.import_module("attribench.methods._gate_networks")
    with Gates(Dense().double()) as gates:
        recording = gates.record(graphs)
        probe = kinds.Probe([recording], 5, 0.25, 9.0, 1)
        with Gates(both()[1]) as listed:
            sent = [call.flat_messages() for call in listed.record(graphs).calls]
        sizes = [float(network.size) for network in probe.networks]  # of messages, as baselines are
        assert sizes == pytest.approx([float(m.square().mean().sqrt()) for m in sent])
        locations = probe(recording).detach()
        for k, (network, call) in enumerate(zip(probe.networks, recording.calls, strict=True)):
            h = call.h_source
            h = (h - h.mean(0)) / h.std(0, correction=0)
            size = h.square().mean(1).sqrt()
            for e in range(graphs.num_edges):
                source, target = graphs.edge_index[:, e].tolist()
                r, read = int(graphs["edge_type"][e]), network.network.target(h[target])
                product = read @ network.network.relation[r] @ (h[source] / size[source]) / WIDTH
                gamma = product + read @ network.network.constant[r]
                torch.testing.assert_close(locations[k, e], gamma.detach() + 0.25)
    assert float(locations.std()) > 0.005


def test_gates_of_eq_9_start_open_for_all_nodes() -> None:
    """Whatever the node is that sends: the subject of a question is unlike all others."""
    graphs = simple([(6, 14)] * 20)
    unusual = graphs["x"].clone()
    unusual[::6] *= 100
    kinds: Any = importlib.import_module("attribench.methods._gate_networks")
    with Gates(Dense().double()) as gates:
        recording = gates.record(replace(graphs, node={"x": unusual}))
        locations = kinds.Probe([recording], 64, 2.0, 5.0, 1)(recording).detach()
    assert float((locations - 2).abs().max()) < 0.5


def drawn(graphs: GraphBatch, seed: int = 3) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gates, of which some are quite open, and of two layers a mean and noise for every node."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.rand(2, graphs.num_edges, generator=draw, dtype=torch.float64)
    z[:, ::4] = 1
    means = [torch.randn(WIDTH, generator=draw, dtype=torch.float64) for _ in range(2)]
    return z, means, [torch.randn(graphs.num_nodes, WIDTH, generator=draw, dtype=torch.float64) for _ in range(2)]


def test_draws_for_messages_are_one_draw_for_a_node_of_the_variance_of_their_sum() -> None:
    graphs = simple(SIZES)
    z, means, noises = drawn(graphs)
    dense, listed = both()
    target, share = graphs.edge_index[1], shares(graphs)
    same = []  # for every message of a node the same draw, such that their sum is that of the node
    for k in range(2):
        closed = share * (1 - z[k])
        sums, variance = (closed.new_zeros(graphs.num_nodes).index_add(0, target, x) for x in (closed, closed.square()))
        part = (variance.sqrt() / sums.clamp(min=1e-300))[target]
        same.append(Baseline.per_edge(means[k] + part[:, None] * noises[k][target]))
    with Gates(dense) as gates:
        baselines = [Baseline.drawn(mean, noise) for mean, noise in zip(means, noises, strict=True)]
        found = gates.record(graphs).forward(z, baselines)
    with Gates(listed) as gates:
        recording = gates.record(graphs)
        torch.testing.assert_close(found, recording.forward(z, same), rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match="got draws for every node, which lists cannot use"):
            recording.forward(z, baselines)
    with pytest.raises(ValueError, match=r"expected noise of a baseline for call 0 of shape \(16, 4\); got \(3, 4\)"):
        Baseline.drawn(means[0], noises[0][:3]).check(graphs, WIDTH, "a baseline for call 0")
    with pytest.raises(ValueError, match="got draws for nodes of one batch"):
        baselines[0].select(slice(0, 1), slice(0, 1))


def test_gradients_are_numbers_where_all_messages_of_a_node_are_open_or_there_is_none() -> None:
    graphs = simple(SIZES)
    z, means, noises = drawn(graphs)
    z = z.round().requires_grad_()
    with Gates(Dense().double()) as gates:
        baselines = [Baseline.drawn(mean, noise) for mean, noise in zip(means, noises, strict=True)]
        gates.record(graphs).forward(z, baselines).sum().backward()
    assert z.grad is not None
    assert bool(torch.isfinite(z.grad).all())
    assert bool((z.grad != 0).any())


def test_the_bottlenecks_statistics_and_information_are_those_of_the_messages() -> None:
    graphs = simple(SIZES)
    kinds: Any = importlib.import_module("attribench.methods.information_bottleneck")
    calls = []
    for model in both():
        with Gates(model) as gates:
            calls.append(gates.record(graphs).calls)
    for k, (dense, listed) in enumerate(zip(*calls, strict=True)):
        (count, std, mean), expected = kinds.message_moments(dense), kinds.message_moments(listed)
        assert count == expected[0] == graphs.num_edges
        torch.testing.assert_close((std, mean), expected[1:], rtol=0, atol=1e-12)
        readouts = [kinds.EntryReadout(dense, 5, 0.5, mean, std), kinds.MessageReadout(listed, 5, 0.5, mean, std)]
        entry, message = (readout.surprise(call) for readout, call in zip(readouts, (dense, listed), strict=True))
        torch.testing.assert_close(entry, message, rtol=0, atol=1e-12, msg=f"layer {k}")
        noise = readouts[0].noise(dense, torch.Generator().manual_seed(0))
        assert noise.noise.shape == (graphs.num_nodes, WIDTH)
        torch.testing.assert_close(noise.noise.std(0, correction=0) / std, torch.ones(WIDTH).double(), rtol=0, atol=0.6)


def test_streams_of_such_layers_are_cut_by_what_a_pass_may_hold_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attribench.model.recording.CACHED_EDGES", 5)
    graphs = simple(SIZES)
    for model, parts in zip(both(), (1, len(list(graphs.parts(5)))), strict=True):
        with Gates(model) as gates:
            assert gates.send_vectors == (parts > 1)
            assert len(list(gates.stream(graphs, 10**6).recordings())) == parts


def test_graphmask_closes_relations_that_send_nothing_of_use() -> None:
    splits = {}
    for k, (name, count) in enumerate((("train", 80), ("validation", 30), ("test", 10))):
        graphs = coalesced(random_batch([(6, 20)] * count, k))
        draw = torch.Generator().manual_seed(k)
        graphs = replace(graphs, node={"x": torch.randn(graphs.num_nodes, WIDE, generator=draw)})
        splits[name] = Split(graphs, torch.arange(count) % 2)
    model: Any = Dense(layers=1, width=WIDE).eval()
    with torch.no_grad():
        model.layers[0].weight[1:] = 0
        model.layers[0].weight[0] *= 0.5
    options = {
        "steps": 300,
        "check_every": 25,
        "max_changed": 0.2,
        "tolerance": 0.1,
        "restarts": 0,
        "max_retained": 1.0,
    }
    kind = METHODS["graphmask"]
    method = kind(
        make_config(kind.name, kind.Config, options), subject=Problem(model, GraphClassification(), splits).subject()
    )
    method.fit()
    graphs = splits["test"].graphs
    mask = method.attribute(graphs).hard_mask
    assert mask is not None
    kept = [float(mask[:, graphs["edge_type"] == r].double().mean()) for r in range(RELATIONS)]
    assert kept[0] > 0.3
    assert max(kept[1:]) < 0.1
