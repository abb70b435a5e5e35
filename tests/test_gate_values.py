"""Gate values by hand, how a model's own gates are recorded, and the toy with gates."""

from typing import Any

import pytest
import torch
from helpers import random_batch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from attribench.checking.methods import contract_subject
from attribench.model.gates import Gates, UnsupportedModelError
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.configs import make_config
from attribench.plugins.method import Subject
from attribench.plugins.registry import METHODS, TASKS
from attribench.plugins.task import Problem, TaskSeeds, Workshop, build_problem, without_cache

KIND: Any = METHODS["gate-values"]


class FirstFeature(nn.Module):
    """A gate that is the sigmoid of ``factor`` times the source's first feature."""

    def __init__(self, factor: float = 1.0, flat: bool = False) -> None:
        super().__init__()
        self.factor, self.flat = factor, flat

    def forward(self, x_j: Tensor) -> Tensor:
        gate = (self.factor * x_j[:, :1]).sigmoid()
        return gate[:, 0] if self.flat else gate


class GatedSum(MessagePassing):
    def __init__(self, gate: FirstFeature) -> None:
        super().__init__(aggr="sum")
        self.gate = gate

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = self.propagate(edge_index, x=x)
        return out

    def message(self, x_j: Tensor) -> Tensor:
        gate: Tensor = self.gate(x_j)
        return gate.view(-1, 1) * x_j


class Gated(GraphModel):
    """Applies gated layers in the order of ``schedule``, with residual connections."""

    def __init__(self, gates: list[FirstFeature], schedule: list[int], declared: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GatedSum(gate) for gate in gates)
        self.schedule, self.declared = schedule, declared

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        x = graphs["x"]
        for index in self.schedule:
            x = x + self.layers[index](x, graphs.edge_index)
        return x[graphs.node_ptr[:-1], :2]

    def gate_modules(self) -> list[nn.Module]:
        gates = [layer.gate for layer in self.layers if isinstance(layer, GatedSum)]
        return [gates[index] for index in self.declared]


def logit(p: float) -> float:
    return float(torch.tensor(p, dtype=torch.float64).logit())


def star(gates: list[float]) -> Data:
    """A star whose edges have these gates."""
    count = len(gates)
    x = torch.tensor([[0.0, 0.0], *([logit(p), 1.0] for p in gates)], dtype=torch.float64)
    return Data(x=x, edge_index=torch.stack([torch.arange(1, count + 1), torch.zeros(count, dtype=torch.long)]))


def gate_values(validation: list[list[float]], test: list[list[float]]) -> tuple[Any, GraphBatch]:
    splits = [GraphBatch.from_data_list([star(p) for p in split]) for split in ([[0.01, 0.99]], validation, test)]
    model = Gated([FirstFeature()], [0], [0])
    method = KIND(subject=Subject(model, GraphClassification(), splits[0], splits[1], 1))
    method.fit()
    return method, splits[2]


def test_open_where_not_more_than_one_standard_deviation_below_the_mean_by_hand() -> None:
    """Validation gates 0.2, 0.5, 0.8 in two graphs: mean 0.5, deviation sqrt(0.06) = 0.245, so open from 0.255 on."""
    method, graphs = gate_values([[0.2, 0.5], [0.8]], [[0.1, 0.25, 0.26], [0.5, 0.05, 0.99]])
    attribution = method.attribute(graphs)
    assert torch.allclose(attribution.scores, torch.tensor([[0.1, 0.25, 0.26, 0.5, 0.05, 0.99]]).double())
    assert attribution.hard_mask.tolist() == [[False, False, True, True, False, True]]
    assert attribution.scale == "gate"
    assert method.figures["gate_mean"] == pytest.approx(0.5)
    assert method.figures["gate_std"] == pytest.approx(0.06**0.5)


def test_a_gate_exactly_at_the_threshold_is_open() -> None:
    method, graphs = gate_values([[0.5, 0.5], [0.5]], [[0.5, 0.499]])
    assert method.attribute(graphs).hard_mask.tolist() == [[True, False]]


def test_models_without_gates_are_skipped_for_a_reason() -> None:
    assert KIND.supports(contract_subject(1)) == "the model has no gates of its own on its messages"
    graphs = random_batch()
    gated = Gated([FirstFeature()], [0], [0])
    assert KIND.supports(Subject(gated, GraphClassification(), graphs, graphs, 1)) is None


def test_gate_modules_that_are_never_called_are_an_error() -> None:
    graphs = random_batch().to(torch.float64)
    model = Gated([FirstFeature(), FirstFeature()], [0], [1])
    method = KIND(subject=Subject(model, GraphClassification(), graphs, graphs, 1))
    with pytest.raises(RuntimeError, match="expected the model's gate modules to be called"):
        method.fit()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("schedule", "declared"),
    [([0, 0, 0], [0]), ([0, 1], [0, 1]), ([0, 1], [1, 0]), ([1, 0], [0, 1]), ([0, 1, 0, 0], [0, 1])],
)
def test_own_gates_are_in_the_order_of_the_calls(schedule: list[int], declared: list[int], flat: bool) -> None:
    """Also for a layer that is called several times, whose gates read other states in every call."""
    factors = [0.7, -1.3]
    graphs = random_batch().to(torch.float64)
    model = Gated([FirstFeature(factor, flat) for factor in factors[: max(schedule) + 1]], schedule, declared)
    with Gates(model) as gates:
        recording = gates.record(graphs)
    assert recording.own_gates is not None
    x, (source, target) = graphs["x"], graphs.edge_index
    for row, index in zip(recording.own_gates, schedule, strict=True):
        expected = (factors[index] * x[source, 0]).sigmoid()
        assert torch.allclose(row, expected, rtol=0, atol=1e-12)
        x = x + torch.zeros_like(x).index_add(0, target, expected[:, None] * x[source])
    assert (recording.own_gates.diff(dim=0).abs().amax(1) > 1e-3).all()


def test_own_gates_are_none_without_gate_modules() -> None:
    subject = contract_subject(1)
    with Gates(subject.model) as gates:
        assert gates.record(subject.validation).own_gates is None


@pytest.mark.parametrize(("schedule", "declared"), [([0, 1], [0]), ([0], [0, 0])])
def test_gates_that_do_not_match_the_calls_are_refused(schedule: list[int], declared: list[int]) -> None:
    graphs = random_batch().to(torch.float64)
    model = Gated([FirstFeature(), FirstFeature()], schedule, declared)
    with Gates(model) as gates, pytest.raises(UnsupportedModelError, match="check gate_modules"):
        gates.record(graphs)
    assert not any(module._forward_hooks for module in model.modules())


def test_recording_gates_leaves_no_hook_after_success_or_error() -> None:
    graphs = random_batch().to(torch.float64)
    model = Gated([FirstFeature()], [0], [0])
    with Gates(model) as gates:
        gates.record(graphs)
        assert not model.layers[0].gate._forward_hooks  # type: ignore[union-attr]
        model.schedule = [0, 7]
        with pytest.raises(IndexError):
            gates.record(graphs)
        assert not model.layers[0].gate._forward_hooks  # type: ignore[union-attr]


def build(name: str, **options: Any) -> Problem:
    kind = TASKS[name]
    config = make_config(name, kind.Config, {**kind.quick, "train": 300, "validation": 40, "test": 40, **options})
    return build_problem(kind(config), TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))


@pytest.fixture(scope="module")
def gated_toy() -> Problem:
    return build("toy-gated", layers=2, epochs=60)


def test_toy_gated_multiplies_every_message_by_its_gate(gated_toy: Problem) -> None:
    graphs = gated_toy.splits["test"].graphs
    model: Any = gated_toy.model
    assert model.gate_modules() == [layer.gate for layer in model.layers]
    with Gates(model) as gates, torch.no_grad():
        recording = gates.record(graphs)
        assert recording.own_gates is not None
        assert recording.own_gates.shape == (2, graphs.num_edges)
        colour = graphs["edge_type"]
        for layer, call, own in zip(model.layers, recording.calls, recording.own_gates, strict=True):
            h = call.h_source[call.source]
            linear = layer.gate.weight
            gate = ((h * linear.weight[colour]).sum(1) + linear.bias[colour]).sigmoid()
            assert torch.allclose(own, gate, atol=1e-6)
            plain = (torch.einsum("eh,ehd->ed", h, layer.weight[colour]) + layer.bias[colour]).relu()
            assert torch.allclose(call.messages, gate[:, None] * plain, atol=1e-5)


def test_toy_gated_has_the_toys_data_gold_and_audit(gated_toy: Problem) -> None:
    toy = build("toy", layers=2, epochs=1)
    for name, split in gated_toy.splits.items():
        other = toy.splits[name]
        assert torch.equal(split.graphs.edge_index, other.graphs.edge_index)
        assert torch.equal(split.graphs["edge_type"], other.graphs["edge_type"])
        assert torch.equal(split.labels, other.labels)
        assert split.gold is not None
        assert other.gold is not None
        assert torch.equal(split.gold, other.gold)
    assert list(gated_toy.figures) == list(toy.figures)
    assert {"audit_recolour_other", "audit_recolour_gold", "audit_remove_other", "audit_remove_gold"} <= set(
        toy.figures
    )
    assert gated_toy.figures["test"] >= 0.9  # it was trained,
    assert gated_toy.figures["audit_recolour_gold"] >= 0.9  # and its answer follows the gold edges
    assert TASKS["toy-gated"]().published() == {}
    assert TASKS["toy"]().published()


def test_gate_values_on_toy_gated(gated_toy: Problem) -> None:
    subject, graphs = gated_toy.subject(), gated_toy.splits["test"].graphs
    method = KIND(subject=subject)
    method.fit()
    with Gates(subject.model) as gates:
        validation, test = (gates.record(g).own_gates for g in (subject.validation, graphs))
    assert validation is not None
    assert test is not None
    attribution = method.attribute(graphs)
    assert torch.equal(attribution.scores, test)
    assert torch.equal(attribution.hard_mask, test >= float(validation.mean() - validation.std()))
    assert 0 < float(attribution.hard_mask.double().mean()) < 1
