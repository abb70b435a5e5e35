"""Each method against an independent reference: PyG's own, a hand-worked model, or a slow plain loop."""

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.explain import Explainer, GNNExplainer, ModelConfig
from torch_geometric.nn import GraphConv, MessagePassing

from attribench.base.errors import Infeasible
from attribench.checking.methods import contract_subject, random_graphs
from attribench.model.graphs import GraphBatch
from attribench.model.hard_concrete import HardConcrete
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.configs import make_config
from attribench.plugins.method import Subject
from attribench.plugins.registry import METHODS, TASKS
from attribench.plugins.task import TaskSeeds, Workshop, build_problem, without_cache
from attribench.scoring.gold import by_layer


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


def test_graphmask_objective_against_a_plain_loop() -> None:
    """One evaluation of Eq. 5, 7, 11 and 12 graph by graph and edge by edge, for the two upper of three layers."""
    graphmask = graphmask_module()
    subject, graphs = contract_subject(3), random_graphs(4, "objective")
    method = METHODS["graphmask"](METHODS["graphmask"].Config(tolerance=0.001), subject=subject, seed=1)
    untyped: Any = method
    untyped.distribution = graphmask.HardConcrete()
    with method.gates() as gates:
        recording = gates.record(graphs)
        untyped.probe = graphmask.build_probe(recording, method.config, 1)
        with torch.no_grad():
            for network in untyped.probe.networks:
                network.bias = 0.4  # away from open, so that the draws decide
                network.baseline.normal_(generator=torch.Generator().manual_seed(0))
        penalty, excess = untyped._objective(recording, 1, torch.Generator().manual_seed(9))
        drawn = torch.rand(2, graphs.num_edges, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        uniform = torch.cat([torch.zeros_like(drawn[:1]), drawn])
        z = torch.ones(3, graphs.num_edges).double()
        nonzero = torch.zeros(3, graphs.num_edges).double()
        for k in (1, 2):
            network, call = untyped.probe.networks[k], recording.calls[k]
            w1, norm, _, w2 = network.layers
            for e in range(graphs.num_edges):
                u, v = graphs.edge_index[:, e]
                q = torch.cat([call.h_source[u], call.h_target[v], call.messages[e]])
                hidden = F.layer_norm(w1.weight @ q + w1.bias, (len(w1.bias),), norm.weight, norm.bias).relu()
                location = float((w2.weight[0] @ hidden + w2.bias[0]).detach()) + 0.4
                logit = float((uniform[k, e] / (1 - uniform[k, e])).log())
                s = 1 / (1 + torch.exp(torch.tensor(-(logit + location) * 3)).item())
                z[k, e] = float(min(1, max(0, s * 1.2 - 0.2)) > 0.5)
                nonzero[k, e] = 1 / (1 + 0.2 ** (1 / 3) * torch.exp(torch.tensor(-location)).item())
        assert 0 < z[1:].mean() < 1
        expected_penalty, expected_excess = [], []
        for g in range(graphs.num_graphs):
            edges, one = graphs.edge_graph == g, torch.tensor([g])
            expected_penalty.append(nonzero[1:, edges].mean())
            alone = gates.record(graphs.select(one))
            logits = alone.forward(z[:, edges], untyped.probe.baselines())[0].detach()
            p, log_p = alone.logits[0].softmax(0), alone.logits[0].log_softmax(0)
            divergence = float((p * (log_p - logits.log_softmax(0))).sum())
            expected_excess.append(max(0.0, divergence - 0.001))
    assert float(penalty.detach()) == pytest.approx(float(torch.stack(expected_penalty).mean()), abs=1e-9)
    assert float(excess.detach()) == pytest.approx(sum(expected_excess) / graphs.num_graphs, abs=1e-9)


def test_graphmask_gates_layers_from_the_top() -> None:
    subject = contract_subject(3)
    kind = METHODS["graphmask"]
    method: Any = kind(kind.Config(steps=5, steps_per_layer=3, batch_size=20, check_every=100), subject=subject)
    objective, seen = method._objective, []

    def spy(recording: Any, lowest: int, noise: torch.Generator) -> Any:
        seen.append((lowest, set(recording.graphs.graph_key.tolist())))
        return objective(recording, lowest, noise)

    method._objective = spy
    method.distribution = HardConcrete()
    method._train(0)
    assert [lowest for lowest, _ in seen] == [2] * 3 + [1] * 3 + [0] * 5
    assert len(seen[0][1] | seen[1][1]) == 40  # one epoch of 40 graphs is two batches of 20


def test_graphmask_restores_the_best_probe_and_weighs_the_constraint_more() -> None:
    """Closed gates do not open again, so a probe that stays outside the tolerance is given up for the best one."""
    subject = contract_subject(2)
    kind = METHODS["graphmask"]
    options = {"steps": 60, "steps_per_layer": 10, "check_every": 10, "patience": 2, "restored_raise": 1.5}
    method: Any = kind(kind.Config(**options, multiplier_learning_rate=1e-9), subject=subject)
    check, raised = method._check, list[float]()
    found: list[tuple[int, Any]] = []

    def judge(validation: Any, lowest: int) -> Any:
        """Call every probe infeasible once the lower layer is gated, except the first."""
        now = check(validation, lowest)
        found.append((lowest, replace(now, bound=1.0 if lowest == 0 and any(k == 0 for k, _ in found) else 0.0)))
        return found[-1][1]

    method._check = judge
    method.distribution = HardConcrete()
    restart = graphmask_module().Lagrangian.restart

    def spy(lagrangian: Any) -> None:
        restart(lagrangian)
        raised.append(float(lagrangian._raw.detach()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphmask_module().Lagrangian, "restart", spy)
        best = method._train(0)
    assert method.restored == 3  # six validations, two of them at a time
    assert raised == pytest.approx([6.5, 8.0, 9.5], abs=1e-4)
    first = next(checkpoint for lowest, checkpoint in found if lowest == 0)
    assert best is first
    assert all(torch.equal(method.probe.state_dict()[name], value) for name, value in first.state.items())


def test_graphmask_stops_when_nothing_sparser_is_found() -> None:
    subject = contract_subject(1)
    kind = METHODS["graphmask"]
    options = {"steps": 500, "check_every": 10, "stop_after": 3, "tolerance": 1e6, "max_retained": 1.0}
    method = kind(kind.Config(**options, learning_rate=1e-12, baseline_learning_rate=1e-12), subject=subject)
    method.fit()
    assert method.forward_passes < 100


def graphmask_module() -> Any:
    return importlib.import_module("attribench.methods.graphmask")


def test_graphmask_says_infeasible_rather_than_score_a_collapse() -> None:
    subject = contract_subject(1)
    kind = METHODS["graphmask"]
    method = kind(kind.Config(steps=40, tolerance=0.0, restarts=1), subject=subject)
    with pytest.raises(Infeasible, match="no probe in 2 attempts"):
        method.fit()


def test_graphmask_finds_the_edges_that_matter() -> None:
    """Only edges of type 0 carry anything: a trained probe retains these and no others."""

    class TypeZero(SumOfMessages):
        def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor | None = None) -> Tensor:
            out: Tensor = self.propagate(edge_index, x=x, edge_type=edge_type)
            return out

        def message(self, x_j: Tensor, edge_type: Tensor) -> Tensor:  # type: ignore[override]
            return 3 * torch.stack([(edge_type == 0).to(x_j.dtype), torch.ones_like(x_j[:, 0])], dim=-1)

    class Counter(GraphModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = TypeZero()

        def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
            h = self.layer(graphs["x"], graphs.edge_index, graphs["edge_type"])[:, 0]
            total = h.new_zeros(graphs.num_graphs).index_add(0, graphs.batch, h)
            return torch.stack([torch.full_like(total, 4.5), total], dim=-1)

    train = random_graphs(600, "many")
    graphs = random_graphs(100, "check")
    subject = Subject(Counter(), GraphClassification(), train, graphs, 1)
    kind = METHODS["graphmask"]
    method = kind(kind.Config(batch_size=16, learning_rate=3e-3, hidden=8), subject=subject, seed=0)
    method.fit()
    attribution = method.attribute(graphs)
    assert attribution.hard_mask is not None
    truth = graphs["edge_type"] == 0
    assert float((attribution.hard_mask[0] == truth).double().mean()) > 0.99
    one_type = replace(graphs, edge={"edge_type": torch.ones_like(graphs["edge_type"])})
    empty = method.attribute(one_type).hard_mask
    assert empty is not None
    assert not empty.any()


def test_graphmask_finds_the_layer() -> None:
    """On a path of a red and a blue edge, red edges are retained in the first layer and blue ones in the second."""
    task = TASKS["two-hop"]
    config = make_config("two-hop", task.Config, {"train": 600, "validation": 100, "test": 60})
    problem = build_problem(task(config), TaskSeeds(1000, 1000), Workshop(torch.device("cpu"), without_cache))
    kind = METHODS["graphmask"]
    rates = {"learning_rate": 3e-3, "baseline_learning_rate": 3e-4}  # for the sake of speed
    method = kind(kind.Config(steps=800, steps_per_layer=200, **rates), subject=problem.subject(), seed=0)
    method.fit()
    test = problem.splits["test"]
    mask = method.attribute(test.graphs).hard_mask
    assert mask is not None
    assert test.gold is not None
    for row in by_layer(mask.float(), mask, test.gold):
        assert row["f1"] > 0.9
