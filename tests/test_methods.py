"""Each method against an independent reference: PyG's own, a hand-worked model, or a slow plain loop."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.explain import Explainer, GNNExplainer, ModelConfig
from torch_geometric.nn import GraphConv, MessagePassing

from attribench.checking.methods import contract_subject, random_graphs
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.method import Subject
from attribench.plugins.registry import METHODS


class SumOfMessages(MessagePassing):
    """Messages are the sources' scalar states; a layer with known gradients."""

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = self.propagate(edge_index, x=x)
        return out

    def message(self, x_j: Tensor) -> Tensor:
        return x_j


class Quadratic(GraphModel):
    """logits = (0, s^2) where s is the sum of the messages that reach node 0 of each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = SumOfMessages()

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        s = self.layer(graphs["x"], graphs.edge_index)[graphs.node_ptr[:-1], 0]
        return torch.stack([torch.zeros_like(s), s**2], dim=-1)


def star(values: list[float]) -> Data:
    count = len(values)
    edges = torch.stack([torch.arange(1, count + 1), torch.zeros(count, dtype=torch.long)])
    return Data(x=torch.tensor([[0.0], *([v] for v in values)], dtype=torch.float64), edge_index=edges)


def quadratic_subject() -> tuple[Subject, GraphBatch]:
    graphs = GraphBatch.from_data_list([star([1.0, 2.0]), star([3.0, -1.0, 0.0])])
    return Subject(Quadratic(), GraphClassification(), graphs, graphs, 1), graphs


def test_integrated_gradients_on_a_quadratic_by_hand() -> None:
    """For (sum z_i x_i)^2 the path integral is x_i * sum(x): (1*3, 2*3) and (3*2, -1*2, 0)."""
    subject, graphs = quadratic_subject()
    attribution = METHODS["integrated-gradients"](subject=subject).attribute(graphs)
    assert torch.allclose(attribution.scores, torch.tensor([[3.0, 6.0, 6.0, -2.0, 0.0]]).double())
    # Captum keeps its quadrature weights in float32.
    assert float(attribution.diagnostics["completeness_error"].max()) < 1e-7


def test_integrated_gradients_of_the_probability_and_a_coarse_quadrature() -> None:
    subject, graphs = quadratic_subject()
    kind = METHODS["integrated-gradients"]
    probability = kind(kind.Config(target="probability"), subject=subject).attribute(graphs)
    change = torch.tensor([9.0, 4.0]).double().sigmoid() - 0.5
    assert torch.allclose(graphs.sum_per_graph(probability.scores[0]), change, atol=1e-3)
    left = kind(kind.Config(steps=4, quadrature="riemann_left"), subject=subject).attribute(graphs)
    # Left sums of d/dt (3 t)^2 at t = 0, 1/4, 2/4, 3/4 give 9 * 2 * 6 / 16 = 6.75 of 9.
    assert torch.allclose(left.diagnostics["completeness_error"], torch.tensor([2.25, 1.0]).double())


class OneLayer(GraphModel):
    """A graph classifier with one GraphConv layer, also callable as PyG's explainers call models."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GraphConv(4, 8)
        self.readout = nn.Linear(8, 3)

    def run(self, x: Tensor, edge_index: Tensor, batch: Tensor, count: int) -> Tensor:
        h = self.conv(x, edge_index).tanh()
        logits: Tensor = self.readout(h.new_zeros(count, 8).index_add(0, batch, h))
        return logits

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        return self.run(graphs["x"], graphs.edge_index, graphs.batch, graphs.num_graphs)


class AsPyG(nn.Module):
    def __init__(self, model: OneLayer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.model.run(x, edge_index, torch.zeros(len(x), dtype=torch.long), 1)


def test_gnnexplainer_equals_pygs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = OneLayer().double()
    graphs = random_graphs(3, "pyg")
    subject = Subject(model, GraphClassification(), graphs, graphs, 1)
    kind = METHODS["gnnexplainer"]
    method: Any = kind(kind.Config(steps=150, learning_rate=0.05), subject=subject, seed=3)
    ours = method.attribute(graphs).scores[0]
    initial = method.initial_mask(graphs, 1, torch.float64)[0]
    for index in range(graphs.num_graphs):
        edges = graphs.edges_of(torch.tensor([index]))
        alone = graphs.select(torch.tensor([index]))

        def start(self: Any, x: Tensor, edge_index: Tensor, edges: Tensor = edges) -> None:
            self.node_mask = self.hard_node_mask = self.hard_edge_mask = None
            self.edge_mask = nn.Parameter(initial[edges].clone())

        monkeypatch.setattr(GNNExplainer, "_initialize_masks", start)
        explainer = Explainer(
            AsPyG(model),
            GNNExplainer(epochs=150, lr=0.05),
            explanation_type="model",
            edge_mask_type="object",
            model_config=ModelConfig("multiclass_classification", "graph", "raw"),
        )
        theirs = explainer(alone["x"], alone.edge_index).edge_mask
        assert theirs is not None
        assert torch.allclose(ours[edges], theirs, atol=1e-6)
        assert not torch.allclose(ours[edges], initial[edges].sigmoid(), atol=1e-2)


def test_gnnexplainer_can_share_its_mask_over_layers() -> None:
    subject, graphs = contract_subject(3), random_graphs(4, "shared")
    kind = METHODS["gnnexplainer"]
    shared = kind(kind.Config(steps=30, share_layers=True), subject=subject).attribute(graphs)
    assert shared.scores.shape == (3, graphs.num_edges)
    assert torch.equal(shared.scores[0], shared.scores[2])
    assert not shared.per_layer
    own = kind(kind.Config(steps=30), subject=subject).attribute(graphs)
    assert not torch.allclose(own.scores[0], own.scores[2])
