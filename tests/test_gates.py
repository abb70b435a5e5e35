"""Gates on ordinary PyG layers against slow references, and the model left as it was found."""

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import WIDTH, Network, random_batch, random_data_list
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.nn import (
    ARMAConv,
    FastRGCNConv,
    FiLMConv,
    GATConv,
    GCNConv,
    GINConv,
    GraphConv,
    MessagePassing,
    NNConv,
    SAGEConv,
    TransformerConv,
    global_add_pool,
)
from torch_geometric.utils import to_torch_csr_tensor

from attribench.model.gates import Gates, Recording, UnsupportedModelError
from attribench.model.graphs import GraphBatch
from attribench.model.integrity import differences, fingerprint
from attribench.model.model import GraphModel, PyGModel

W = WIDTH
HEADS = 2


def _repeat(layer: nn.Module, times: int) -> list[nn.Module]:
    return [layer] * times


@dataclass(frozen=True)
class Kind:
    """A network and how to call it."""

    layers: Callable[[], list[nn.Module]]
    edge_tensor: str | None = None
    residual: bool = False
    width: int = W  # D, values in one message

    def model(self) -> PyGModel:
        torch.manual_seed(0)
        arguments = ["x", "edge_index", "batch", *([self.edge_tensor] if self.edge_tensor else [])]
        return PyGModel(Network(self.layers(), self.residual), *arguments).double()


KINDS = {
    "FastRGCNConv": Kind(lambda: [FastRGCNConv(W, W, 3) for _ in range(2)], "edge_type"),
    "FastRGCNConv-sum": Kind(lambda: [FastRGCNConv(W, W, 3, aggr="sum") for _ in range(2)], "edge_type"),
    "SAGEConv": Kind(lambda: [SAGEConv(W, W) for _ in range(2)]),
    "SAGEConv-max": Kind(lambda: [SAGEConv(W, W, aggr="max") for _ in range(2)]),
    "GINConv": Kind(lambda: [GINConv(nn.Sequential(nn.Linear(W, W), nn.ReLU(), nn.Linear(W, W))) for _ in range(2)]),
    "GraphConv": Kind(lambda: [GraphConv(W, W) for _ in range(2)]),
    "GraphConv-reversed": Kind(lambda: [GraphConv(W, W, flow="target_to_source") for _ in range(2)]),
    "NNConv": Kind(lambda: [NNConv(W, W, nn.Linear(2, W * W)) for _ in range(2)], "edge_attr"),
    "TransformerConv": Kind(
        lambda: [TransformerConv(W, W, HEADS, concat=False, edge_dim=2) for _ in range(2)], "edge_attr", width=W * HEADS
    ),
    "GCNConv": Kind(lambda: [GCNConv(W, W) for _ in range(2)]),
    "GATConv": Kind(lambda: [GATConv(W, W, HEADS, concat=False) for _ in range(2)], width=W * HEADS),
    "residual-3": Kind(lambda: [GraphConv(W, W), SAGEConv(W, W), GCNConv(W, W)], residual=True),
    "shared-3": Kind(lambda: _repeat(GraphConv(W, W), 3)),
}
SUM_KINDS = ["FastRGCNConv-sum", "GINConv", "GraphConv", "GraphConv-reversed"]
# PyG has one mask per layer, not per call, and its explain mode fails on FastRGCNConv (2.8.1).
EXPLAIN_KINDS = [name for name in KINDS if name != "shared-3" and "RGCN" not in name]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def graphs() -> GraphBatch:
    return random_batch().to(torch.float64)


def pool(h: Tensor, graphs: GraphBatch) -> Tensor:
    return torch.zeros(graphs.num_graphs, h.shape[1], dtype=h.dtype).index_add(0, graphs.batch, h)


def layers_of(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, MessagePassing)]


def network(model: PyGModel) -> Network:
    assert isinstance(model.module, Network)
    return model.module


def random(*shape: int, seed: int = 7) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits(*shape: int, seed: int = 7) -> Tensor:
    return (random(*shape, seed=seed) > 0.4).double()


def equation_3(
    model: PyGModel, graphs: GraphBatch, z: Tensor | None = None, baselines: Sequence[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Slow reference: message() of a copy of the model replaced by one that loops over edges; output and messages."""
    model = deepcopy(model).eval()
    sent: list[Tensor] = []

    def patched(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def message(**inputs: Any) -> Tensor:
            m = original(**inputs)
            k = len(sent)
            sent.append(m)
            rows = []
            for e, row in enumerate(m):
                if z is None or e >= graphs.num_edges:
                    rows.append(row)
                    continue
                b = torch.zeros_like(row)
                if baselines is not None:
                    one = baselines[k]
                    b = (one[int(graphs.edge_graph[e])] if one.dim() == 2 else one).view_as(row)
                rows.append(z[k, e] * row + (1 - z[k, e]) * b)
            return torch.stack(rows)

        return message

    for layer in layers_of(model):
        layer.message = patched(layer.message)
    with torch.no_grad():
        return model(graphs), sent


def test_recording_and_open_gates_are_the_plain_model(kind: Kind, graphs: GraphBatch) -> None:
    model = kind.model()
    plain, sent = equation_3(model, graphs)
    with torch.no_grad():
        assert torch.equal(model.eval()(graphs), plain)
    with Gates(model) as gates:
        recording = gates.record(graphs)
        assert recording.num_layers == len(sent)
        assert torch.equal(recording.logits, plain)
        assert torch.equal(recording.forward(recording.ones()), plain)
        assert torch.equal(recording.forward([None] * recording.num_layers), plain)
    for call, messages in zip(recording.calls, sent, strict=True):
        assert torch.equal(call.messages, messages)
        assert call.width == kind.width
        assert torch.equal(call.flat_messages(), messages[: graphs.num_edges].flatten(1))


@pytest.mark.parametrize("values", ["hard", "soft"])
@pytest.mark.parametrize("baseline", ["zero", "one", "per graph"])
def test_gated_pass_is_equation_3(kind: Kind, graphs: GraphBatch, values: str, baseline: str) -> None:
    model = kind.model()
    with Gates(model) as gates:
        recording = gates.record(graphs)
        size = (recording.num_layers, graphs.num_edges)
        z = bits(*size) if values == "hard" else random(*size)
        shape = {"zero": None, "one": (kind.width,), "per graph": (3, kind.width)}[baseline]
        baselines = None if shape is None else [random(*shape, seed=k) - 0.5 for k in range(recording.num_layers)]
        gated = recording.forward(z, baselines)
    expected, _ = equation_3(model, graphs, z, baselines)
    torch.testing.assert_close(gated, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(gated, recording.logits)


@pytest.mark.parametrize("name", EXPLAIN_KINDS)
def test_zero_baseline_is_pygs_edge_mask(name: str, graphs: GraphBatch) -> None:
    """PyG's own explanation mechanism multiplies messages by a mask."""
    model = KINDS[name].model()
    with Gates(model) as gates:
        recording = gates.record(graphs)
        z = random(recording.num_layers, graphs.num_edges)
        gated = recording.forward(z)
    masked = deepcopy(model)
    for k, layer in enumerate(layers_of(masked)):
        layer.explain = True
        layer._edge_mask, layer._apply_sigmoid = z[k], False
        layer._loop_mask = torch.ones(graphs.num_edges, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(gated, masked.eval()(graphs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SUM_KINDS)
def test_closing_gates_of_a_sum_removes_the_edges_from_that_layer(name: str, graphs: GraphBatch) -> None:
    model = KINDS[name].model()
    with Gates(model) as gates:
        recording = gates.record(graphs)
        keep = bits(recording.num_layers, graphs.num_edges)
        gated = recording.forward(keep)
    x = graphs["x"]
    for layer, kept in zip(network(model).layers, keep.bool(), strict=True):
        thinned = graphs.keep_edges(kept)
        extra = [thinned["edge_type"]] if KINDS[name].edge_tensor else []
        x = layer(x, thinned.edge_index, *extra).tanh()
    expected = network(model).readout(global_add_pool(x, graphs.batch))
    torch.testing.assert_close(gated, expected.detach(), rtol=1e-12, atol=1e-12)


def test_inputs_are_read_before_the_call(kind: Kind, graphs: GraphBatch) -> None:
    """No look-ahead: gate k reads h(k-1) of source and target and the message, all of the unmasked pass."""
    model = kind.model()
    with Gates(model) as gates:
        recording = gates.record(graphs)
        recording.forward(bits(recording.num_layers, graphs.num_edges))  # must not change the recording
    _, sent = equation_3(model, graphs)
    extra = [graphs[kind.edge_tensor]] if kind.edge_tensor else []
    h, net = graphs["x"], network(model).eval()
    for k, layer in enumerate(net.layers):
        rows = []
        for e, (u, v) in enumerate(graphs.edge_index.t().tolist()):
            if getattr(layer, "flow", None) == "target_to_source":
                u, v = v, u
            rows.append(torch.cat([h[u], h[v], sent[k][e].flatten()]))
        q = torch.stack(rows).detach()
        torch.testing.assert_close(recording.calls[k].inputs(), q, rtol=1e-12, atol=1e-12)
        linear = nn.Linear(q.shape[1], 3).double()
        torch.testing.assert_close(
            recording.calls[k].project(linear.weight, linear.bias), linear(q), rtol=1e-12, atol=1e-12
        )
        update = layer(h, graphs.edge_index, *extra).tanh()
        h = h + update if kind.residual else update


def test_gates_of_one_call_leave_the_others_open(kind: Kind, graphs: GraphBatch) -> None:
    model = kind.model()
    with Gates(model) as gates:
        recording = gates.record(graphs)
        closed = torch.zeros(graphs.num_edges, dtype=torch.float64)
        outputs = []
        for k in range(recording.num_layers):
            alone: list[Tensor | None] = [None] * recording.num_layers
            alone[k] = closed
            z = recording.ones()
            z[k] = 0
            outputs.append(recording.forward(alone))
            torch.testing.assert_close(outputs[k], equation_3(model, graphs, z)[0], rtol=1e-12, atol=1e-12)
    for first, second in pairwise(outputs):
        assert not torch.allclose(first, second)


def test_equation_3_by_hand() -> None:
    class Sum(GraphModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = GraphConv(1, 1, bias=False)
            nn.init.constant_(self.layer.lin_rel.weight, 1)
            nn.init.constant_(self.layer.lin_root.weight, 0)

        def encode(self, graphs: GraphBatch) -> Tensor:
            return graphs["x"] * 10

        def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
            out: Tensor = self.layer(state, graphs.edge_index)[graphs.node_ptr[:-1]]
            return out

    star = Data(x=torch.tensor([[0.0], [1], [2]]), edge_index=torch.tensor([[1, 2], [0, 0]]))
    with Gates(Sum()) as gates:
        recording = gates.record(GraphBatch.from_data_list([star, star]))
        z = torch.tensor([[0.25, 1, 0, 0.5]])
        assert recording.forward(z).tolist() == [[2.5 + 20], [10]]
        assert recording.forward(z, [torch.tensor([4.0])]).tolist() == [[2.5 + 3 + 20], [4 + 10 + 2]]
        assert recording.forward(z, [torch.tensor([[4.0], [8.0]])]).tolist() == [[25.5], [8 + 10 + 4]]


@pytest.mark.parametrize("name", ["GraphConv", "GATConv", "shared-3"])
@pytest.mark.parametrize("per_graph", [False, True])
def test_gradients_of_gates_and_baselines(name: str, per_graph: bool) -> None:
    graphs = random_batch([(3, 4), (2, 2)]).to(torch.float64)
    model = KINDS[name].model()
    with Gates(model) as gates:
        recording = gates.record(graphs)
        z = random(recording.num_layers, graphs.num_edges).requires_grad_()
        shape = (2, KINDS[name].width) if per_graph else (KINDS[name].width,)
        baselines = [random(*shape, seed=k).requires_grad_() for k in range(recording.num_layers)]
        assert torch.autograd.gradcheck(lambda z, *b: recording.forward(z, b), (z, *baselines))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_recording_is_outside_the_graph_of_gradients(graphs: GraphBatch) -> None:
    graphs["x"].requires_grad_()
    with Gates(KINDS["GATConv"].model()) as gates:
        recording = gates.record(graphs)
    assert not recording.logits.requires_grad
    assert not any(call.messages.requires_grad for call in recording.calls)


class CountingConv(SAGEConv):
    """Counts how often messages are computed, in a list so that no attribute changes."""

    calls: list[int] = []

    def message(self, x_j: Tensor) -> Tensor:
        self.calls.append(1)
        return x_j


def test_first_messages_and_the_encoder_are_computed_once(graphs: GraphBatch) -> None:
    encoded: list[int] = []

    class Model(GraphModel):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = CountingConv(W, W).double(), CountingConv(W, W).double()

        def encode(self, graphs: GraphBatch) -> Tensor:
            encoded.append(1)
            return graphs["x"]

        def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
            h = self.second(self.first(state, graphs.edge_index).tanh(), graphs.edge_index)
            return pool(h, graphs)

    CountingConv.calls.clear()
    with Gates(Model(), replay=True) as gates:
        recording = gates.record(graphs)
        assert (len(encoded), len(CountingConv.calls), gates.forward_passes) == (1, 2, 1)
        for n in range(1, 4):
            z = random(2, graphs.num_edges).requires_grad_()
            (gradient,) = torch.autograd.grad(recording.forward(z).sum(), z)
            assert bool((gradient[0] != 0).any())
            assert (len(encoded), len(CountingConv.calls), gates.forward_passes) == (1, 2 + n, 1 + n)


def test_wrong_numbers_of_gates_are_refused(graphs: GraphBatch) -> None:
    with Gates(KINDS["GraphConv"].model()) as gates:
        recording = gates.record(graphs)
        for z in (recording.ones()[:1], torch.ones(3, graphs.num_edges)):
            with pytest.raises(ValueError, match=f"for 2 calls; got {len(z)}"):
                recording.forward(z)
        with pytest.raises(ValueError, match=r"expected 17 gates for call 0; got \(16,\)"):
            recording.forward(recording.ones()[:, 1:])
        with pytest.raises(ValueError, match="for 2 calls"):
            recording.forward(recording.ones(), [torch.zeros(W)])


class Edgy(GraphModel):
    """Passes messages over edges that ``change`` makes of the batch's."""

    def __init__(self, layer: nn.Module, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = layer.double()
        self.change = change

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        return pool(self.layer(graphs["x"], self.change(graphs.edge_index)), graphs)


class EncodesMessages(Edgy):
    def encode(self, graphs: GraphBatch) -> Tensor:
        state: Tensor = self.layer(graphs["x"], graphs.edge_index)
        return state

    def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        return pool(state, graphs)


class Unrecorded(GraphModel):
    """A layer that reads what is no floating-point state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = FastRGCNConv(100, W, 3).double()

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        numbers = torch.arange(graphs.num_nodes)
        return pool(self.layer(numbers, graphs.edge_index, graphs["edge_type"]), graphs)


class Cached(GCNConv):
    """Has seen another batch before."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes, cached=True)
        self.double()(torch.ones(2, W).double(), torch.tensor([[0], [1]]))


def with_loop(position: int) -> GraphBatch:
    """Two graphs, the second with a self-loop at one position."""
    first, second = random_data_list([(3, 4), (3, 4)])
    edges = second.edge_index.t().tolist()
    edges.insert(position, [0, 0])
    second = Data(x=second.x, edge_index=torch.tensor(edges).t().contiguous())
    first = Data(x=first.x, edge_index=first.edge_index)
    return GraphBatch.from_data_list([first, second]).to(torch.float64)


def single_with_last_loop() -> GraphBatch:
    """One graph whose only self-loop is stored last and belongs to node 0: where such layers put theirs."""
    (data,) = random_data_list([(3, 4)])
    edges = torch.cat([data.edge_index, torch.tensor([[0], [0]])], dim=1)
    return GraphBatch.from_data_list([Data(x=data.x, edge_index=edges)]).to(torch.float64)


def sparse(edge_index: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # torch calls its sparse tensors a beta
        transposed: Tensor = to_torch_csr_tensor(edge_index.flip(0), torch.ones(17).double(), size=11)
        return transposed


def _conv() -> nn.Module:
    layer: nn.Module = GraphConv(W, W)
    return layer


GRAPHS = random_batch().to(torch.float64)
REFUSED: dict[str, tuple[GraphModel, GraphBatch, str]] = {
    "relations one by one": (
        Kind(lambda: [FiLMConv(W, W, 3)], "edge_type").model(),
        GRAPHS,
        "one relation at a time.* RGCNConv or FastRGCNConv",
    ),
    "sparse adjacency": (Edgy(_conv(), sparse), GRAPHS, r"plain \(2, E\)"),
    "fusing edge index": (Edgy(SAGEConv(W, W), EdgeIndex), GRAPHS, r"plain \(2, E\)"),
    "decomposed": (Edgy(GCNConv(W, W, decomposed_layers=2), lambda e: e), GRAPHS, "decomposed_layers=1"),
    "fewer edges": (Edgy(_conv(), lambda e: e[:, 1:]), GRAPHS, "16 messages where .* 17 edges"),
    "other order": (Edgy(_conv(), lambda e: e.flip(1)), GRAPHS, "in another order"),
    "more edges": (Edgy(_conv(), lambda e: torch.cat([e, e[:, :1]], 1)), GRAPHS, "1 messages over edges that it adds"),
    "turned edges": (Edgy(_conv(), lambda e: e.flip(0)), GRAPHS, "flow='target_to_source'"),
    "rewired edges": (Edgy(_conv(), lambda e: e[:, :1].expand(2, 17)), GRAPHS, "other edges than the graphs'"),
    "undirected": (Edgy(_conv(), lambda e: torch.cat([e.flip(0), e], 1)), GRAPHS, "ToUndirected"),
    "cached edges": (Edgy(Cached(W, W), lambda e: e), GRAPHS, "cached=False"),
    "stacked messages": (Edgy(ARMAConv(W, W), lambda e: e), GRAPHS, r"messages of shape \(1, 17, 4\)"),
    "integer states": (Unrecorded(), GRAPHS, "floating-point node states"),
    "messages in the encoder": (EncodesMessages(_conv(), lambda e: e), GRAPHS, "no message before decode"),
    **{
        f"{layer.__name__} loop at {position}": (Edgy(layer(W, W), lambda e: e), with_loop(position), "self-loops")
        for layer in (GCNConv, GATConv)
        for position in (0, 2, 4)
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_to_use_and_leave_the_model_alone(name: str) -> None:
    model, graphs, message = REFUSED[name]
    before = fingerprint(model, graphs)
    with pytest.raises(UnsupportedModelError, match=message) as refusal, Gates(model) as gates:
        gates.record(graphs)
    assert "expected" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert differences(before, fingerprint(model, graphs)) == []


@pytest.mark.parametrize("layer", [GCNConv, GATConv])
def test_self_loops_are_refused_wherever_they_are_stored(layer: Callable[..., nn.Module]) -> None:
    with (
        pytest.raises(UnsupportedModelError, match="self-loops"),
        Gates(Edgy(layer(W, W), lambda e: e)) as gates,
    ):
        gates.record(single_with_last_loop())


def test_a_model_without_message_passing_is_refused() -> None:
    model = PyGModel(nn.Linear(W, 2), "x").double().train()
    with pytest.raises(UnsupportedModelError, match=r"torch_geometric\.nn\.MessagePassing"), Gates(model):
        pass
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_loops_are_ordinary_edges_where_the_layer_adds_none() -> None:
    graphs = with_loop(2)
    model = Edgy(_conv(), lambda e: e)
    with Gates(model) as gates:
        recording = gates.record(graphs)
        z = bits(1, graphs.num_edges)
        gated = recording.forward(z)
    thinned = graphs.keep_edges(z[0].bool())
    with torch.no_grad():
        torch.testing.assert_close(gated, model(thinned), rtol=1e-12, atol=1e-12)


def test_another_number_of_calls_than_in_the_unmasked_pass_is_refused(graphs: GraphBatch) -> None:
    class Adaptive(GraphModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.times = GraphConv(W, W).double(), 1

        def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
            h = graphs["x"]
            for _ in range(self.times):
                h = self.layer(h, graphs.edge_index)
            return pool(h, graphs)

    model = Adaptive()
    with Gates(model) as gates:
        recording = gates.record(graphs)
        model.times = 2
        with pytest.raises(UnsupportedModelError, match="expected 1 message-passing calls"):
            recording.forward(recording.ones())


def mixed(model: GraphModel) -> GraphModel:
    """Modes, ``requires_grad`` and hooks as no method would guess them."""
    for i, module in enumerate(model.modules()):
        module.training = i % 2 == 0
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 != 0)
    for layer in layers_of(model):
        layer.register_message_forward_pre_hook(lambda *_: None)
        layer.register_forward_hook(lambda *_: None)
    return model


def test_left_as_found_after_success(kind: Kind, graphs: GraphBatch) -> None:
    model = mixed(kind.model())
    before = fingerprint(model, graphs)
    with Gates(model) as gates:
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        recording = gates.record(graphs)
        z = random(recording.num_layers, graphs.num_edges).requires_grad_()
        recording.forward(z).sum().backward()
    assert differences(before, fingerprint(model, graphs)) == []
    with Gates(model) as gates:
        assert torch.equal(gates.record(graphs).logits, before["logits"])
    assert differences(before, fingerprint(model, graphs)) == []


@pytest.mark.parametrize("place", ["propagate", "message", "aggregate"])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("gated", [False, True])
def test_left_as_found_after_an_error_in_a_pass(
    kind: Kind, graphs: GraphBatch, place: str, layer: int, gated: bool
) -> None:
    model = mixed(kind.model())
    armed: list[int] = []

    def fail(*_: Any) -> None:
        if armed:
            raise RuntimeError("on purpose")

    # A hook of the user's that fails after the gates' own propagate hook has run.
    chosen = layers_of(model)[min(layer, len(layers_of(model)) - 1)]
    getattr(chosen, f"register_{place}_forward_pre_hook")(fail)
    before = fingerprint(model, graphs)

    def use() -> Recording:
        with Gates(model) as gates:
            recording = gates.record(graphs) if gated else None
            armed.append(1)
            if recording is None:
                return gates.record(graphs)
            recording.forward(recording.ones())
            return recording

    with pytest.raises(RuntimeError, match="on purpose"):
        use()
    armed.clear()
    assert differences(before, fingerprint(model, graphs)) == []


def test_left_as_found_after_a_baseline_of_the_wrong_width(graphs: GraphBatch) -> None:
    model = mixed(KINDS["GraphConv"].model())
    before = fingerprint(model, graphs)
    with Gates(model) as gates:
        recording = gates.record(graphs)
        with pytest.raises(
            ValueError, match=rf"a baseline for call 1 of width {W} as of the messages, or 1; got {W + 1}"
        ):
            recording.forward(recording.ones(), [torch.zeros(W), torch.zeros(W + 1)])
        assert torch.equal(recording.forward(recording.ones()), recording.logits)  # and the gates still work
    assert differences(before, fingerprint(model, graphs)) == []


def test_a_message_function_set_on_the_layer_itself_stays(graphs: GraphBatch) -> None:
    model = KINDS["GraphConv"].model()
    layers_of(model)[0].message = lambda x_j, edge_weight: 2 * x_j
    before = fingerprint(model, graphs)
    with Gates(model) as gates:
        recording = gates.record(graphs)
        recording.forward(recording.ones())
    assert differences(before, fingerprint(model, graphs)) == []


def test_a_message_hook_of_the_users_is_refused(graphs: GraphBatch) -> None:
    """It sees messages that no gate has changed, and could hand them to the readout."""
    model = KINDS["GraphConv"].model()
    handle = layers_of(model)[1].register_message_forward_hook(lambda layer, inputs, messages: 2 * messages)
    before = fingerprint(model, graphs)
    with pytest.raises(UnsupportedModelError, match=r"expected no hooks .* GraphConv .* move it into message\(\)"):
        Gates(model).__enter__()
    assert differences(before, fingerprint(model, graphs)) == []
    handle.remove()
    with Gates(model) as gates, Gates(model) as inner:  # whose hooks are their own
        assert torch.equal(gates.record(graphs).logits, inner.record(graphs).logits)


class Tampered(nn.Module):
    """What the tampering below is done to: parameters, a buffer and a message-passing layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = GraphConv(W, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        return self.norm(global_add_pool(self.layer(x, edge_index), batch))  # type: ignore[no-any-return]


def one_ulp(tensor: Tensor) -> None:
    with torch.no_grad():
        flat = tensor.view(-1)
        flat[0] = torch.nextafter(flat[0], torch.tensor(torch.inf, dtype=flat.dtype))


TAMPERING: dict[str, tuple[Callable[[Tampered], Any], str]] = {
    "forward hook": (lambda m: m.layer.register_forward_hook(lambda *_: None), "hooks"),
    "forward pre-hook": (lambda m: m.norm.register_forward_pre_hook(lambda *_: None), "hooks"),
    "backward hook": (lambda m: m.norm.register_full_backward_hook(lambda *_: None), "hooks"),
    "message hook": (lambda m: m.layer.register_message_forward_hook(lambda *_: None), "hooks"),
    "propagate pre-hook": (lambda m: m.layer.register_propagate_forward_pre_hook(lambda *_: None), "hooks"),
    "parameter by one ulp": (lambda m: one_ulp(m.layer.lin_rel.weight), "tensors"),
    "buffer by one ulp": (lambda m: one_ulp(next(m.norm.buffers())), "tensors"),
    "requires_grad": (lambda m: m.layer.lin_rel.weight.requires_grad_(False), "requires_grad"),
    "mode": (lambda m: m.norm.eval(), "training"),
    "attribute": (lambda m: setattr(m.layer, "message", m.layer.message), "attributes"),
    "gradient": (lambda m: setattr(m.norm.weight, "grad", torch.zeros(2, dtype=torch.float64)), "gradients"),
    "module": (lambda m: m.add_module("extra", nn.Identity()), "training"),
    "output": (
        lambda m: setattr(m.layer, "aggr_module", deepcopy(KINDS["SAGEConv"].layers()[0].aggr_module)),
        "logits",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_integrity_names_what_was_tampered_with(name: str, graphs: GraphBatch) -> None:
    tamper, expected = TAMPERING[name]
    module = Tampered().double()
    model = PyGModel(module, "x", "edge_index", "batch")
    before = fingerprint(model, graphs)
    assert differences(before, fingerprint(model, graphs)) == []
    tamper(module)
    assert expected in differences(before, fingerprint(model, graphs))


def test_logits_may_differ_by_a_stated_tolerance(graphs: GraphBatch) -> None:
    before = fingerprint(KINDS["GraphConv"].model(), graphs)
    after = {**before, "logits": before["logits"] + 1e-9}
    assert differences(before, after) == ["logits"]
    assert differences(before, after, tolerance=1e-8) == []
    assert differences(before, {**before, "logits": before["logits"][:1]}, tolerance=1e9) == ["logits"]


def test_infinite_logits_equal_themselves(graphs: GraphBatch) -> None:
    before = fingerprint(KINDS["GraphConv"].model(), graphs)
    before["logits"] = torch.tensor([[0.0, -torch.inf]])
    assert differences(before, before) == []
