"""What users bring is explained rightly, or refused in one line: models and data that went wrong, by kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_helpers import Command, exit_code
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import (
    GINConv,
    GraphConv,
    GraphNorm,
    MessagePassing,
    RGATConv,
    SimpleConv,
    TransformerConv,
    global_add_pool,
)

from attribench import (
    METHODS,
    TASKS,
    GraphBatch,
    GraphClassification,
    GraphModel,
    Output,
    Problem,
    Split,
    Task,
    TaskSeeds,
    UnsupportedModelError,
    UserError,
    Workshop,
    generator,
)
from attribench.checking.methods import check_plugin
from attribench.model.gates import Gates
from attribench.model.integrity import differences, fingerprint
from attribench.plugins.task import SPLITS


def random_split(name: str, count: int = 12) -> Split:
    draw = generator("examination", name)
    graphs = []
    for _ in range(count):
        size = int(torch.randint(2, 6, (1,), generator=draw))
        edges = torch.randint(size, (2, 2 * size), generator=draw)
        red = torch.rand(2 * size, generator=draw) < 0.5
        graphs.append(Data(x=torch.randn(size, 4, generator=draw), edge_index=edges, red=red))
    batch = GraphBatch.from_data_list(graphs, edge=["red"], name=name)
    return Split(batch, (pool(batch["x"], batch)[:, 0] > 0).long(), batch["red"][None])


def pool(h: Tensor, graphs: GraphBatch) -> Tensor:
    return h.new_zeros(graphs.num_graphs, *h.shape[1:]).index_add(0, graphs.batch, h)


def problem(model: GraphModel, output: Output | None = None, **splits: Split) -> Problem:
    return Problem(model.eval(), output or GraphClassification(), {n: random_split(n) for n in SPLITS} | splits)


class Model(GraphModel):
    """Two layers and a readout; subclasses change what they do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.readout = GraphConv(4, 8), GraphConv(8, 8), nn.Linear(8, 2)

    def between(self, h: Tensor) -> Tensor:
        return h.tanh()

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        out: Tensor = self.readout(pool(h, graphs))
        return out

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.between(self.first(graphs["x"], graphs.edge_index))
        return self.read(self.second(h, graphs.edge_index).tanh(), graphs)


# Kind 1: the recorded pass is isolated from the model.


class Residual(GraphModel):
    """Adds what arrives to its states."""

    in_place = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.conv, self.readout = nn.Linear(4, 8), GINConv(nn.Linear(8, 8)), nn.Linear(8, 2)

    def encode(self, graphs: GraphBatch) -> Any:
        return self.embed(graphs["x"])

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = state
        for _ in range(3):
            if self.in_place:
                h += self.conv(h, graphs.edge_index)
            else:
                h = h + self.conv(h, graphs.edge_index)
        out: Tensor = self.readout(pool(h, graphs))
        return out


class InPlace(Residual):
    in_place = True


@dataclass
class Held:
    h: Tensor
    more: list[Any]


class InPlaceInAnObject(InPlace):
    def encode(self, graphs: GraphBatch) -> Any:
        return Held(self.embed(graphs["x"]), [{"unused": torch.ones(1)}])

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        state.more[0]["unused"] += 1
        return super().decode(graphs, state.h)


class ScaledMessages(GraphConv):
    """Doubles the messages, in place or not, while it sums them."""

    in_place = False

    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int | None = None) -> Tensor:
        out: Tensor = super().aggregate(inputs.mul_(2) if self.in_place else 2 * inputs, index, dim_size=dim_size)
        return out


class Doubling(Model):
    in_place = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = ScaledMessages(4, 8)
        self.first.in_place = self.in_place


class DoublingInPlace(Doubling):
    in_place = True


class Rectified(Model):
    def between(self, h: Tensor) -> Tensor:
        return h.relu()


class RectifiedInPlace(Model):
    """Changes a layer's input after the layer has read it."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index)
        h.relu_()
        after = self.second(h, graphs.edge_index)
        if not h.requires_grad:  # autograd itself refuses what follows
            h.zero_()
        return self.read(after.tanh(), graphs)


class EdgeConv(MessagePassing):
    """Messages become the next layer's edge features."""

    def __init__(self, nodes: int, edges: int) -> None:
        super().__init__()
        self.f = nn.Linear(2 * nodes + edges, 8)

    def forward(self, x: Tensor, edge_index: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.propagate(edge_index, x=x, features=features), self.left

    def message(self, x_i: Tensor, x_j: Tensor, features: Tensor) -> Tensor:
        left: Tensor = self.f(torch.cat([x_i, x_j, features], -1)).tanh()
        self.left = left
        return left


class LeavesEdges(GraphModel):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.readout = EdgeConv(4, 1), EdgeConv(8, 8), nn.Linear(8, 2)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h, edges = self.first(graphs["x"], graphs.edge_index, graphs["red"].float()[:, None])
        h, _ = self.second(h, graphs.edge_index, edges)
        out: Tensor = self.readout(pool(h, graphs))
        return out


class PassesEdges(LeavesEdges):
    """The same without layers that hold anything: what it is compared with."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        raise NotImplementedError

    def gated(self, graphs: GraphBatch, z: Tensor) -> Tensor:
        (source, target), h, edges = graphs.edge_index, graphs["x"], graphs["red"].float()[:, None]
        for layer, gate in zip((self.first, self.second), z, strict=True):
            edges = layer.f(torch.cat([h[target], h[source], edges], -1)).tanh()
            h = edges.new_zeros(graphs.num_nodes, 8).index_add(0, target, gate[:, None] * edges)
        out: Tensor = self.readout(pool(h, graphs))
        return out


class Relational(Model):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.rgat = RGATConv(4, 8, num_relations=2)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        return self.read(self.rgat(graphs["x"], graphs.edge_index, graphs["red"].long()).tanh(), graphs)


class TellsAttention(Model):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = TransformerConv(4, 8)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h, (_, alpha) = self.first(graphs["x"], graphs.edge_index, return_attention_weights=True)
        return self.read(self.second(h.tanh(), graphs.edge_index) + alpha.mean() * 0, graphs)


class GivesLists(InPlace):
    def encode(self, graphs: GraphBatch) -> Any:
        return [self.embed(graphs["x"]), {"name": "x"}]

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        return super().decode(graphs, state[0])


EXACT: dict[str, tuple[Callable[[], GraphModel], Callable[[], GraphModel] | None]] = {
    "adds in place": (InPlace, Residual),
    "adds in place in an object": (InPlaceInAnObject, Residual),
    "adds in place in a list": (GivesLists, Residual),
    "changes messages in place": (DoublingInPlace, Doubling),
    "changes inputs in place": (RectifiedInPlace, Rectified),
    "leaves edge features": (LeavesEdges, None),
    "RGATConv": (Relational, None),
    "attention weights": (TellsAttention, None),
}


def random_gates(layers: int, edges: int, seed: int) -> Tensor:
    return torch.rand(layers, edges, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", EXACT)
def test_what_was_recorded_stays_what_it_was(name: str) -> None:
    make, plain = EXACT[name]
    tried = problem(make())
    first, second = (tried.splits[split].graphs for split in ("test", "validation"))
    before = fingerprint(tried.model, first)
    num_layers = tried.findings.num_layers
    z = random_gates(num_layers, first.num_edges, 0)
    with tried.gates() as gates, torch.no_grad():
        recording, logits = gates.record(first), tried.model(first)
        other = gates.record(second)
        assert torch.equal(recording.forward(recording.ones()), logits)
        gated = recording.forward(z)
        assert torch.equal(other.forward(other.ones()), tried.model(second))
        assert torch.equal(recording.forward(z), gated)
        assert not torch.equal(gated, logits)
    if plain is not None:
        with Gates(plain()) as gates, torch.no_grad():
            reference = gates.record(first)
            assert torch.equal(reference.logits, logits)
            assert torch.allclose(reference.forward(z), gated, atol=1e-6)
            for call, same in zip(recording.calls, reference.calls, strict=True):
                assert torch.equal(call.messages, same.messages)
                assert torch.equal(call.h_source, same.h_source)
    assert not [what for what in differences(before, fingerprint(tried.model, first)) if what != "attributes"]


def test_messages_that_leave_edge_features_are_gated_exactly() -> None:
    tried, reference = problem(LeavesEdges()), PassesEdges()
    graphs = tried.splits["test"].graphs
    z = random_gates(2, graphs.num_edges, 1)
    assert not tried.findings.replay
    with tried.gates() as gates, torch.no_grad():
        recording = gates.record(graphs)
        gates.record(tried.splits["validation"].graphs)
        assert torch.allclose(recording.forward(z), reference.gated(graphs, z), atol=1e-6)


def test_first_messages_are_replayed_where_nothing_is_left_behind() -> None:
    assert problem(Model()).findings.replay
    assert problem(Residual()).findings.replay
    assert not problem(Relational()).findings.replay


class ChangesGraphs(Model):
    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = graphs["x"]
        h *= 0.5
        return super().decode(graphs, state)


class ChangesEncodedGraphs(InPlace):
    def encode(self, graphs: GraphBatch) -> Any:
        return F.pad(graphs["x"], (0, 4))[:, :8] if False else graphs["x"].mul_(1).repeat(1, 2)


class Counts(Model):
    passes = 0

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        self.passes += 1
        return super().read(h, graphs) + self.passes


class CountsUnheard(Model):
    """Counts what nobody reads, or reads too late: methods would be blamed for it."""

    passes = 0

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        self.passes += 1
        return super().read(h, graphs) + self.passes // 1000


class KeepsStatistics(Model):
    """Batch normalisation in training mode: also its running statistics change."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def between(self, h: Tensor) -> Tensor:
        return F.batch_norm(h, self.norm.running_mean, self.norm.running_var, training=True)


class Remembers(Model):
    last: Tensor | float = 0.0

    def between(self, h: Tensor) -> Tensor:
        given, self.last = h + self.last, h.mean()
        return given


class AlwaysDrops(Model):
    def between(self, h: Tensor) -> Tensor:
        return F.dropout(h, 0.5)


class Noisy(Model):
    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        return super().read(h, graphs) + torch.rand(2)


class DrawsEdges(Model):
    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        keep = torch.rand(graphs.num_edges, 1) < 0.9
        h = self.first(graphs["x"], graphs.edge_index, keep.float()[:, 0])
        return self.read(self.second(h, graphs.edge_index), graphs)


class BehindTheBack(InPlace):
    """Changes its state where no version counter sees it."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        out = Residual.decode(self, graphs, 1 * state)
        state.data.add_(1)
        return out


class AcrossGraphs(Model):
    def between(self, h: Tensor) -> Tensor:
        return h - h.mean(0)


class Normed(Model):
    def __init__(self) -> None:
        super().__init__()
        self.norm = GraphNorm(8)

    def between(self, h: Tensor) -> Tensor:
        out: Tensor = self.norm(h)
        return out


class Attends(Model):
    """Softmax over all nodes of the batch."""

    def between(self, h: Tensor) -> Tensor:
        return h * h.sum(1).softmax(0)[:, None] * 10


class DropsWithGradients(Model):
    def between(self, h: Tensor) -> Tensor:
        return F.dropout(h, 0.5, training=torch.is_grad_enabled())


class Memoises(Model):
    """Passes the first layer's messages once for a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[int, ...], Tensor] = {}

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        key = tuple(graphs.graph_key.tolist())
        if key not in self.known:
            self.known[key] = self.first(graphs["x"], graphs.edge_index).tanh()
        return self.read(self.second(self.known[key], graphs.edge_index), graphs)


class KeepsInGraphs(Model):
    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        graphs.node["seen"] = graphs["x"]
        return super().decode(graphs, state)


class HugeColumn(AcrossGraphs):
    """A column that is huge does not hide what the others do."""

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        return F.pad(super().read(h, graphs), (0, 1), value=-1e9)


class Varies(Model):
    """As many layers as the first graph has nodes."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index)
        for _ in range(2 if graphs.num_graphs > 1 and graphs["x"][0, 0] > 0 else 1):
            h = h + 0 * self.second(h, graphs.edge_index)
        return self.read(h, graphs)


REFUSED: dict[str, tuple[Callable[[], GraphModel], str]] = {
    "changes features": (ChangesGraphs, "ChangesGraphs changes 'x' in place: write h = h"),
    "changes features in encode": (ChangesEncodedGraphs, "ChangesEncodedGraphs changes 'x' in place"),
    "counts its passes": (Counts, "Counts gives another one in the second pass"),
    "counts its passes unheard": (CountsUnheard, "CountsUnheard has another CountsUnheard.passes after every pass"),
    "keeps statistics": (KeepsStatistics, "KeepsStatistics has another BatchNorm1d.running_mean after every pass"),
    "remembers the last batch": (Remembers, "Remembers gives another one in the second pass"),
    "dropout in evaluation mode": (AlwaysDrops, "AlwaysDrops draws at random: .* training=self.training"),
    "noise": (Noisy, "Noisy draws at random"),
    "random edge weights": (DrawsEdges, "DrawsEdges draws at random"),
    "changes its state behind the back": (BehindTheBack, "BehindTheBack gives another"),
    "mean over the batch": (AcrossGraphs, "same output alone and in a batch; .* batch=graphs.batch"),
    "norm without a batch": (Normed, "perhaps 'norm', sees all graphs at once"),
    "softmax over the batch": (Attends, "same output alone and in a batch"),
    "dropout while gradients are on": (DropsWithGradients, "DropsWithGradients draws at random"),
    "remembers messages": (Memoises, "Memoises made 2 and then 1 for the same graph"),
    "keeps what it knows in the graphs": (KeepsInGraphs, "KeepsInGraphs adds to their tensors"),
    "a huge column": (HugeColumn, "same output alone and in a batch"),
    "number of layers": (Varies, "as many message-passing calls"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_explained_exactly_are_refused_for_the_reason(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message) as error:
        _ = problem(make()).findings
    assert "\n" not in str(error.value)


# Kind 2: the output means what is said.


class Shaped(Model):
    """Passes its output through a function."""

    def __init__(self, change: Callable[[Tensor, GraphBatch], Any]) -> None:
        super().__init__()
        self.change = change

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        out: Tensor = self.change(super().read(h, graphs), graphs)
        return out


def infinite_in_graph_five(z: Tensor, graphs: GraphBatch) -> Tensor:
    fifth = random_split("test").graphs.graph_key[5]
    return torch.where((graphs.graph_key == fifth)[:, None], -torch.inf, z)


class Normalises(GraphModel):
    """Divides by what arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.readout = SimpleConv(aggr="sum"), nn.Linear(4, 2)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.conv(graphs["x"], graphs.edge_index)
        arrives = torch.zeros(graphs.num_nodes, 1).index_fill(0, graphs.edge_index[1], 1) > 0
        out: Tensor = self.readout(pool(h / torch.where(arrives, h.abs().sum(1, keepdim=True), 1), graphs))
        return out


OUTPUTS: dict[str, tuple[Callable[[Tensor, GraphBatch], Any], str]] = {
    "one column": (lambda z, g: z[:, :1], "split 'train': .*BinaryClassification"),
    "no columns": (lambda z, g: z[:, 0], r"split 'train': .*"),
    "a row a node": (lambda z, g: z[g.batch], r"split 'train': .*12"),
    "too few rows": (lambda z, g: z[1:], r"split 'train': .*\(11, 2\)"),
    "three dimensions": (lambda z, g: z[:, None], r"split 'train': .*\(12, 1, 2\)"),
    "predictions": (lambda z, g: (z > 0).long(), "split 'train': .*int64"),
    "a tuple": (lambda z, g: (z, z), "expected a tensor from the model; got tuple"),
    "infinite": (infinite_in_graph_five, "split 'test', graph 5: expected finite outputs; got -inf"),
    "no numbers": (lambda z, g: z * torch.nan, "split 'train', graph 0: expected finite outputs; got nan"),
    "logarithm": (lambda z, g: (z * 0).log(), "split 'train', graph 0: expected finite outputs; got -inf"),
    "probabilities": (lambda z, g: z.softmax(-1), "expected logits; got probabilities"),
    "sigmoids": (lambda z, g: (40 * (z - z.median(0).values)).sigmoid(), "expected logits; got probabilities"),
    "hard probabilities": (lambda z, g: F.one_hot(z.argmax(-1), 2).float(), "expected logits; got probabilities"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_mean_something_else_are_refused(name: str) -> None:
    change, message = OUTPUTS[name]
    with pytest.raises(UserError, match=message) as error:
        _ = problem(Shaped(change)).findings
    assert "\n" not in str(error.value)


def test_outputs_that_are_numbers_only_while_there_are_messages_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected a finite output with all messages at zero, .* got nan: guard"):
        _ = problem(Normalises()).findings


def test_logarithms_of_probabilities_are_logits() -> None:
    assert problem(Shaped(lambda z, _: z.log_softmax(-1))).findings.num_layers == 2


class OwnForward(Model):
    def forward(self, graphs: GraphBatch) -> Tensor:
        return 2 * super().forward(graphs)


class OwnHead(Model):
    """decode() gives hidden features, forward() what is predicted."""

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        return pool(h, graphs)[:, :2]

    def forward(self, graphs: GraphBatch) -> Tensor:
        out: Tensor = self.readout(F.pad(super().forward(graphs), (0, 6)))
        return out


class ForwardOfOneSplit(Model):
    def forward(self, graphs: GraphBatch) -> Tensor:
        out = super().forward(graphs)
        return out + (graphs.graph_key == random_split("train").graphs.graph_key[-1]).float()[:, None] * out


@pytest.mark.parametrize("make", [OwnForward, OwnHead, ForwardOfOneSplit])
def test_a_forward_of_ones_own_has_to_be_decode_of_encode(make: Callable[[], GraphModel]) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"split 'train': .* {make.__name__}.forward\(\) gives"):
        _ = problem(make()).findings


def test_a_forward_of_ones_own_that_does_the_same_is_accepted() -> None:
    class Same(Model):
        def forward(self, graphs: GraphBatch) -> Tensor:
            return self.decode(graphs, None)

    assert problem(Same()).findings.num_layers == 2


SOUND = random_split("test")
EDGES = SOUND.graphs.num_edges
NOTHING = torch.arange(0)
SPLIT_FAULTS: dict[str, tuple[Split, str]] = {
    "a column of labels": (replace(SOUND, labels=SOUND.labels[:, None]), "split 'test': .*label"),
    "too many labels": (replace(SOUND, labels=SOUND.labels.repeat(2)), "split 'test': .*24"),
    "labels of nodes": (replace(SOUND, labels=SOUND.labels[SOUND.graphs.batch]), "split 'test': .*label"),
    "a label beyond": (replace(SOUND, labels=SOUND.labels + 1), "split 'test': .*2"),
    "a negative label": (replace(SOUND, labels=SOUND.labels - 1), "split 'test': .*-1"),
    "labels as numbers": (replace(SOUND, labels=SOUND.labels.float()), "split 'test': .*float32"),
    "gold as numbers": (
        replace(SOUND, gold=torch.ones(1, EDGES)),
        "split 'test': expected bool gold; got torch.float32",
    ),
    "gold without layers": (replace(SOUND, gold=torch.ones(EDGES).bool()), r"split 'test': expected gold of shape"),
    "gold of other layers": (replace(SOUND, gold=torch.ones(3, EDGES).bool()), rf"\(2, {EDGES}\), or \(1, {EDGES}\)"),
    "gold of other edges": (replace(SOUND, gold=torch.ones(2, EDGES - 1).bool()), "expected gold of shape"),
    "gold of every layer in one split": (
        replace(SOUND, gold=torch.ones(2, EDGES).bool()),
        r"gold of one kind; got \(2, E\) in one split and \(1, E\) in another",
    ),
    "no graphs": (SOUND.select(NOTHING), "split 'test': expected at least one graph; got none"),
    "no edges": (
        replace(SOUND, graphs=SOUND.graphs.keep_edges(torch.zeros(EDGES).bool())),
        "'test': expected at least one edge",
    ),
}


@pytest.mark.parametrize("name", SPLIT_FAULTS)
def test_splits_that_cannot_be_are_refused(name: str) -> None:
    split, message = SPLIT_FAULTS[name]
    with pytest.raises(UserError, match=message) as error:
        _ = problem(Model(), test=split).findings
    assert "\n" not in str(error.value)


def test_graphs_that_were_changed_since_and_labels_that_are_no_tensor_are_named() -> None:
    split = random_split("test")
    first = int(split.graphs.edge_ptr[5]) - 1  # the last edge of graph 4
    split.graphs.edge_index[0, first] = int(split.graphs.node_ptr[5])
    with pytest.raises(UserError, match=r"split 'test': graph 4, edge .*: expected nodes from 0 to"):
        _ = problem(Model(), test=split).findings
    with pytest.raises(UserError, match="split 'test': expected labels as a tensor; got list"):
        _ = problem(Model(), test=Split(SOUND.graphs, SOUND.labels.tolist())).findings  # type: ignore[arg-type]


class Buffered(Model):
    """Writes all outputs into one piece of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.zeros(100, 2)

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        z = super().read(h, graphs)
        if z.requires_grad:
            return z
        self.out[: len(z)] = z
        return self.out[: len(z)]


def test_an_output_that_is_written_again_stays_what_it_was() -> None:
    tried = problem(Buffered())
    graphs = tried.splits["test"].graphs
    with tried.gates() as gates, torch.no_grad():
        recording = gates.record(graphs)
        closed = recording.forward(recording.ones() * 0)
        assert not torch.equal(recording.logits, closed)
        assert torch.equal(recording.logits, Model().eval()(graphs))


def test_missing_splits_and_gold_are_named() -> None:
    splits = {name: random_split(name) for name in ("train", "test")}
    with pytest.raises(UserError, match="expected splits train, validation, test; got train, test: add validation"):
        _ = Problem(Model().eval(), GraphClassification(), splits).findings
    with pytest.raises(UserError, match="expected gold of the validation split"):
        _ = problem(Model(), validation=replace(random_split("validation"), gold=None)).findings


def test_a_pooling_that_forgets_the_last_graph_is_named() -> None:
    empty = Data(x=torch.ones(0, 4), edge_index=torch.zeros(2, 0).long())
    full = Data(x=torch.ones(2, 4), edge_index=torch.tensor([[0], [1]]))
    split = Split(GraphBatch.from_data_list([full, full, empty], name="test"), torch.tensor([0, 1, 0]))

    class Pooled(Model):
        def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
            out: Tensor = self.readout(global_add_pool(h, graphs.batch))
            return out

    with pytest.raises(UserError, match="the last graph has no nodes, pool with size="):
        _ = problem(Pooled(), train=split, validation=split, test=split).findings


# Kind 4: messages in reach, and gradients.


class Frozen(Model):
    def between(self, h: Tensor) -> Tensor:
        return h.tanh().detach()


class NoGradient(Model):
    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        with torch.no_grad():
            return super().decode(graphs, state)


class Hard(Model):
    def between(self, h: Tensor) -> Tensor:
        return (h > 0).float()


class PartlyFrozen(Model):
    """Only some of what the first layer says is detached: a gradient arrives."""

    def between(self, h: Tensor) -> Tensor:
        return torch.cat([h[:, :7].detach(), h[:, 7:]], 1).tanh()


class Saturated(Model):
    """Where all gates are open, more arrives than it can tell."""

    def between(self, h: Tensor) -> Tensor:
        return (h.abs() * 1e3).clamp(max=20).tanh()


class Rounded(Model):
    def between(self, h: Tensor) -> Tensor:
        return h.round()


class Unread(Model):
    """The second layer's messages are of no use."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index).tanh()
        return self.read(h + 0 * self.second(h, graphs.edge_index), graphs)


@pytest.mark.parametrize(
    ("make", "without_gradient", "unused"),
    [
        (Model, [], []),
        (Frozen, [0], []),
        (NoGradient, [0, 1], []),
        (Hard, [0], []),
        (PartlyFrozen, [], []),
        (Saturated, [], []),
        (Rounded, [0], []),
        (Unread, [], [1]),
    ],
)
def test_layers_that_gates_or_gradients_do_not_reach(
    make: Callable[[], GraphModel], without_gradient: list[int], unused: list[int]
) -> None:
    found = problem(make()).findings
    assert (found.without_gradient, found.unused) == (without_gradient, unused)


def test_the_examination_leaves_the_model_as_it_found_it() -> None:
    tried = problem(Model())
    tried.model.get_submodule("readout").train()
    graphs = tried.splits["test"].graphs
    before = fingerprint(tried.model, graphs)
    _ = tried.findings
    assert differences(before, fingerprint(tried.model, graphs)) == []


# What comes of it in a run.


def test_methods_that_follow_gradients_are_skipped_where_a_layer_has_none() -> None:
    subject = problem(Frozen()).subject()
    reasons = {name: METHODS[name].reason_against(subject) for name in METHODS}
    assert {name for name, reason in reasons.items() if reason is None} == {"erasure", "erasure-greedy"}
    for name in (
        "graphmask",
        "graphmask-nonamortized",
        "information-bottleneck",
        "gnnexplainer",
        "integrated-gradients",
    ):
        assert "no gradient reaches the gates of layer 0 (counted from 0)" in str(reasons[name])
    assert all(
        METHODS[name].reason_against(problem(Model()).subject()) is None for name in METHODS if name != "gate-values"
    )


class Broken(Task):
    """One graph of the test split has no finite output."""

    name = "broken"

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        return problem(Shaped(infinite_in_graph_five))


class Sound(Task):
    """A task beside it."""

    name = "sound"

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        return problem(Model())


@pytest.mark.parametrize("again", [False, True])
def test_a_refused_problem_is_one_line_and_the_others_go_on(
    again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    list(TASKS)
    monkeypatch.setattr(TASKS, "_entries", {**TASKS._entries, "broken": Broken, "sound": Sound})
    arguments = ["run", "--task", "broken,sound", "--methods", "erasure-greedy", "--jobs", "0"]
    for _ in range(1 + again):
        code, _, said = command(*arguments, "--out", str(tmp_path / "r"), "--cache-dir", str(tmp_path / "c"))
        assert code == 2
    line = "broken: split 'test', graph 5: expected finite outputs; got -inf: mend the model"
    assert f"error: {line}" in said
    scores = pd.read_csv(tmp_path / "r" / "scores.csv").query("kind == 'method'").set_index("task")
    assert scores.loc["broken", "status"] == "skipped"
    assert scores.loc["broken", "reason"] == line.removeprefix("broken: ")
    assert scores.loc["sound", "status"] == "ok"


class Drifts(Task):
    """Builds other labels every time."""

    name = "drifts"
    built = 0
    cached = False

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        made = problem(Model())
        if self.cached:
            workshop.cached(made.model, dict)
        Drifts.built += 1
        split = made.splits["test"]
        made.splits["test"] = replace(split, labels=split.labels.roll(Drifts.built))
        return made


@pytest.mark.parametrize("cached", [False, True])
def test_data_that_are_not_the_same_every_time_are_refused(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(TASKS)
    monkeypatch.setattr(TASKS, "_entries", {**TASKS._entries, "drifts": Drifts})
    monkeypatch.setattr(Drifts, "cached", cached)
    codes = []
    for number, methods in enumerate(("erasure-greedy", "erasure-greedy,integrated-gradients")):
        out = tmp_path / ("r" if not cached else f"r{number}")
        arguments = ["--task", "drifts", "--methods", methods, "--jobs", "0", "--out", str(out)]
        codes.append(exit_code("run", *arguments, "--cache-dir", str(tmp_path / "c")))
    assert codes == [0, 2 if cached else 1]
    scores = pd.read_csv(out / "scores.csv").query("kind == 'method'").set_index("method")
    assert "to make the same data every time" in str(scores.loc["integrated-gradients", "reason"])
    assert scores.loc["erasure-greedy", "status"] == ("skipped" if cached else "ok")


def test_check_says_file_line_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asserts(Broken):
        name = "asserts"

        def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
            raise AssertionError

    list(TASKS)
    monkeypatch.setattr(TASKS, "_entries", {**TASKS._entries, "broken": Broken, "asserts": Asserts})
    told = dict(check_plugin("broken"))
    assert "split 'test', graph 5" in str(next(iter(told.values())))
    first = str(next(iter(dict(check_plugin("asserts")).values())))
    assert re.fullmatch(
        r"AssertionError: without a message, at test_examination.py, line \d+: raise AssertionError", first
    )
    traced = str(next(iter(dict(check_plugin("asserts", tracebacks=True)).values())))
    assert "Traceback (most recent call last)" in traced
