"""fidelity+/-, characterization and unfaithfulness: by hand, and against PyG's own where both mean the same."""

import math
from typing import Any, Literal

import pytest
import torch
from additive_helpers import Additive, random_weights, streaming, weighted_batch
from helpers import WIDTH, Network, random_batch
from torch import Tensor
from torch_geometric.explain import Explainer, Explanation
from torch_geometric.explain.algorithm import DummyExplainer
from torch_geometric.explain.config import ModelConfig
from torch_geometric.explain.metric import characterization_score
from torch_geometric.explain.metric import fidelity as pyg_fidelity
from torch_geometric.explain.metric import unfaithfulness as pyg_unfaithfulness
from torch_geometric.nn import GCNConv, GraphConv

from attribench.base.limits import MAX_EDGES
from attribench.model.graphs import GraphBatch
from attribench.model.model import AsPyG, GraphModel, PyGModel
from attribench.model.output import GraphClassification, NodeClassification, Output
from attribench.model.output_binary import BinaryClassification
from attribench.model.output_regression import GraphRegression
from attribench.model.output_sequence import SequenceLabelling
from attribench.scoring.fidelity import Fidelity, characterization, fidelity, gold_alone, unfaithfulness
from attribench.scoring.passes import answered, masked_passes

OUTPUT = GraphClassification()


def bools(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def measure(
    model: GraphModel,
    graphs: GraphBatch,
    gates: Tensor,
    labels: Tensor | None = None,
    output: Output = OUTPUT,
    max_edges: int = MAX_EDGES,
) -> Fidelity:
    with streaming(model, graphs, max_edges) as stream:
        found = answered(stream, fidelity(stream, output, gates, labels=labels))
        assert found is not None
        return found


# One layer; logits 3 - 2 = 1, 2 - 1 = 1, -2 - 3 = -5 and 1 + 1 = 2. Of each graph the first edge is kept.
GRAPHS = weighted_batch([[[3], [-2]], [[2], [-1]], [[-2], [-3]], [[1], [1]]])
MASK = bools([1, 0] * 4)


def test_fidelity_by_hand() -> None:
    """Kept 3, 2, -2, 1: as before. The rest -2, -1, -3, 1: the first two change."""
    with streaming(Additive(1), GRAPHS) as stream:
        before = stream._gates.forward_passes
        found = answered(stream, fidelity(stream, OUTPUT, MASK))
        assert stream._gates.forward_passes == before + 2
    assert found is not None
    assert found.positive.tolist() == [1, 1, 0, 0]
    assert found.negative.tolist() == [0, 0, 0, 0]
    assert found.characterization == pytest.approx(2 / (1 / 0.5 + 1 / 1))
    other = measure(Additive(1), GRAPHS, ~MASK)
    assert (other.positive.tolist(), other.negative.tolist()) == ([0, 0, 0, 0], [1, 1, 0, 0])
    assert other.characterization == 0


def test_unfaithfulness_by_hand() -> None:
    """1 - exp(-KL), KL from the original to what is kept."""
    found = measure(Additive(1), GRAPHS, MASK).unfaithfulness.tolist()
    for got, (a, b) in zip(found, ((1, 3), (1, 2), (-5, -2), (2, 1)), strict=True):
        p, q = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        assert got == pytest.approx(1 - (q / p) ** p * ((1 - q) / (1 - p)) ** (1 - p))
    assert measure(Additive(1), GRAPHS, ~(MASK & False)).unfaithfulness.tolist() == [0] * 4


def test_phenomenon_by_hand() -> None:
    """Labels 1, 0, 0, 1: all but the second are right; its complement, -1, mends it, which counts as well."""
    found = measure(Additive(1), GRAPHS, MASK, torch.tensor([1, 0, 0, 1]))
    assert (found.positive.tolist(), found.negative.tolist()) == ([1, 1, 0, 0], [0] * 4)


class ThreeClasses(Additive):
    """Logits 0, S and 2 S - 3 for the sum S: class 0 below 0, 1 up to 3, 2 above."""

    def decode(self, graphs: GraphBatch, state: object) -> Tensor:
        total = super().decode(graphs, state)[:, 1:]
        return torch.cat([total * 0, total, 2 * total - 3], 1)


def test_a_wrong_class_that_becomes_another_is_a_change_for_the_model_alone() -> None:
    graphs = weighted_batch([[[4], [-3]]])  # S = 1, 4 and -3: classes 1, 2 and 0
    mask = bools([1, 0])
    assert measure(ThreeClasses(1), graphs, mask).negative.tolist() == [1]
    labels = [measure(ThreeClasses(1), graphs, mask, torch.tensor([label])) for label in range(3)]
    assert [float(found.negative) for found in labels] == [0, 1, 1]
    assert [float(found.positive) for found in labels] == [1, 1, 0]


def test_gates_differ_by_layer_and_may_be_soft() -> None:
    """Two layers of 1 and -3, and gates 0.5 and 0.25: kept 0.5 - 0.75, the rest 0.5 - 2.25; in all -2."""
    graphs = weighted_batch([[[1, -3]]])
    found = measure(Additive(2, bias=0.5), graphs, torch.tensor([[0.5], [0.25]]))
    reference, kept = torch.tensor([[0, -1.5]]).double(), torch.tensor([[0, 0.25]]).double()
    assert (found.positive.tolist(), found.negative.tolist()) == ([0], [1])
    expected = 1 - math.exp(-float(OUTPUT.divergence(reference, kept, graphs)))
    assert float(found.unfaithfulness) == pytest.approx(expected)


def test_predictions_that_are_no_classes_have_no_phenomenon() -> None:
    output = GraphRegression(sigma=1.0)
    labels = torch.zeros(4)
    with streaming(Additive(1, columns=1), GRAPHS) as stream:
        assert answered(stream, fidelity(stream, output, MASK, labels=labels)) is None
        found = answered(stream, fidelity(stream, output, MASK))
    assert found is not None
    # From 1, 1, -5, 2: kept 3, 2, -2, 1, the rest -2, -1, -3, 1. Within sigma is no change.
    assert (found.negative.tolist(), found.positive.tolist()) == ([1, 0, 1, 0], [1, 1, 1, 0])


def test_sequences_count_the_share_of_their_predictions() -> None:
    """Two edges on three nodes; each node's logits are 0 and what it receives, and it keeps or loses that."""
    model, graphs = Received(1), chain()
    output = SequenceLabelling()
    found = measure(model, graphs, bools([1, 0]), output=output)
    assert found.negative.tolist() == [pytest.approx(1 / 3)]
    phenomenon = measure(model, graphs, bools([1, 0]), torch.tensor([0, 0, 1]), output)
    assert phenomenon.negative.tolist() == [pytest.approx(1 / 3)]
    assert phenomenon.positive.tolist() == [pytest.approx(1 / 3)]
    assert float(measure(model, graphs, bools([0, 0]), output=output).negative) == pytest.approx(2 / 3)


def test_target_nodes_count_as_one_prediction() -> None:
    graphs = chain()
    graphs.graph["target"] = torch.tensor([2])
    found = measure(Received(1), graphs, bools([1, 0]), output=NodeClassification())
    assert (found.positive.tolist(), found.negative.tolist()) == ([0], [1])


class Received(Additive):
    """Logits of every node: 0 and what it receives."""

    def decode(self, graphs: GraphBatch, state: object) -> Tensor:
        received: Tensor = self.layers[0](graphs["x"], graphs.edge_index, graphs["weight"][:, 0])
        return torch.cat([received * 0, received], 1)


def chain() -> GraphBatch:
    ones = torch.ones(3, 1, dtype=torch.float64)
    return GraphBatch(
        edge_index=torch.tensor([[0, 1], [1, 2]]),
        node_ptr=torch.tensor([0, 3]),
        edge_ptr=torch.tensor([0, 2]),
        graph_key=torch.tensor([0]),
        edge_key=torch.tensor([0, 1]),
        node={"x": ones},
        edge={"weight": ones[:2]},
    )


def test_characterization_against_pyg() -> None:
    draw = torch.Generator().manual_seed(0)
    positive, negative = torch.rand(2, 50, generator=draw, dtype=torch.float64)
    positive[0], negative[1] = 0, 1
    for weight in (0.25, 0.5, 0.75):
        expected = characterization_score(positive, negative, weight, 1 - weight)
        torch.testing.assert_close(characterization(positive, negative, weight), expected)
    nothing = characterization(torch.zeros(1), torch.ones(1))
    assert float(nothing) == 0
    with pytest.raises(ValueError, match="strictly between"):
        characterization(positive, negative, 1.0)


def test_characterization_of_pyg_fails_on_the_floats_of_its_own_fidelity() -> None:
    with pytest.raises(ZeroDivisionError):
        characterization_score(0.0, 0.5)
    assert math.isnan(float(characterization_score(torch.tensor(0.0), torch.tensor(0.5), 0.0, 1.0)))


SIZES = ((4, 7), (3, 5), (5, 9), (2, 1), (3, 4), (6, 12))


def classifier(layers: int, kind: Any = GraphConv) -> GraphModel:
    """A network that gives half of the graphs of :func:`batch` each class."""
    torch.manual_seed(3)
    network = Network([kind(WIDTH, WIDTH) for _ in range(layers)])
    model = PyGModel(network, "x", "edge_index", "batch").double()
    with torch.no_grad():
        network.readout.weight *= 10
        network.readout.bias[1] -= model(batch()).diff().median()
    return model


def explained(
    model: GraphModel, graphs: GraphBatch, edge_mask: Tensor, labels: Tensor | None = None, mode: str = "multiclass"
) -> tuple[Explainer, Explanation]:
    """PyG's explainer, and an explanation of a batch with the given edge mask."""
    kind: Literal["model", "phenomenon"] = "model" if labels is None else "phenomenon"
    config = ModelConfig(mode=f"{mode}_classification", task_level="graph", return_type="raw")
    explainer = Explainer(AsPyG(model, graphs), DummyExplainer(), kind, config, edge_mask_type="object")
    explanation = explainer(graphs["x"], graphs.edge_index, target=labels)
    explanation.edge_mask = edge_mask
    return explainer, explanation


def batch() -> GraphBatch:
    return random_batch(SIZES).to(torch.float64)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("phenomenon", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [GraphConv, GCNConv])
def test_fidelity_against_pyg(layers: int, phenomenon: bool, soft: bool, kind: Any) -> None:
    """One mask for all layers, so that both mean the same; GCN adds self-loops, which both leave open."""
    graphs, model = batch(), classifier(layers, kind)
    labels = torch.tensor([0, 1, 1, 0, 1, 0]) if phenomenon else None
    draws = torch.rand(1, graphs.num_edges, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    changes = []
    for cut in (0.3, 0.6, 0.9):
        mask = (draws * (draws > cut)) if soft else (draws > cut).double()
        found = measure(model, graphs, mask, labels)
        expected = pyg_fidelity(*explained(model, graphs, mask[0], labels))
        assert (float(found.positive.mean()), float(found.negative.mean())) == pytest.approx(expected)
        assert torch.equal(measure(model, graphs, mask.expand(layers, -1), labels).positive, found.positive)
        if expected[0] > 0:
            score = characterization_score(*(torch.tensor(x) for x in expected))
            assert found.characterization == pytest.approx(float(score))
        changes += expected
    assert len(set(changes)) > 1


def test_fidelity_of_one_logit_against_pyg() -> None:
    graphs = weighted_batch([[[3], [-2]], [[2], [-1]], [[-2], [-3]], [[1], [1]], [[-1], [2]]])
    model = Additive(1, columns=1)
    for mask in (bools([1, 0] * 5), bools([0, 1] * 5)):
        found = measure(model, graphs, mask, output=BinaryClassification())
        expected = pyg_fidelity(*explained(model, graphs, mask[0].double(), mode="binary"))
        assert (float(found.positive.mean()), float(found.negative.mean())) == pytest.approx(expected)


def test_unfaithfulness_against_pyg() -> None:
    """PyG's is the other way round, and of a batch the exponential of the mean; for one logit it is always 0."""
    graphs, model = batch(), classifier(1)
    draws = torch.rand(1, graphs.num_edges, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reversed_all, gaps = [], []
    for g in range(graphs.num_graphs):
        index = torch.tensor([g])
        one, mask = graphs.select(index), draws[:, graphs.edges_of(index)]
        with streaming(model, one) as stream:
            (logits,) = masked_passes(stream, [mask])
            documented = float(unfaithfulness(OUTPUT, stream.logits, logits, one))
            reverse = float(unfaithfulness(OUTPUT, logits, stream.logits, one))
        expected = pyg_unfaithfulness(*explained(model, one, mask[0]))
        assert expected == pytest.approx(reverse)
        reversed_all.append(reverse)
        gaps.append(abs(documented - expected))
    assert max(gaps) > 0.01
    together = pyg_unfaithfulness(*explained(model, graphs, draws[0]))
    logs = [math.log1p(-x) for x in reversed_all]
    assert together == pytest.approx(1 - math.exp(sum(logs) / len(logs)))
    assert together != pytest.approx(sum(reversed_all) / len(logs), rel=1e-3)


def test_unfaithfulness_of_pyg_is_zero_for_one_logit_and_nan_for_sure_predictions() -> None:
    closed = torch.zeros(8, dtype=torch.float64)
    assert pyg_unfaithfulness(*explained(Additive(1, columns=1), GRAPHS, closed, mode="binary")) == 0
    one = measure(Additive(1, columns=1), GRAPHS, closed[None], output=BinaryClassification())
    assert float(one.unfaithfulness.min()) > 0.1
    sure = weighted_batch([[[900], [1]]])
    mask = torch.tensor([1, 0], dtype=torch.float64)
    assert math.isnan(pyg_unfaithfulness(*explained(Additive(1), sure, mask)))
    assert float(measure(Additive(1), sure, mask[None]).unfaithfulness) == 0


def test_gold_alone_by_hand() -> None:
    """Two layers: kept alone 3 of 3 - 4 and -2 of -2 + 1, which keeps the second graph's class."""
    graphs = weighted_batch([[[3, 0], [0, -4]], [[-2, 0], [0, 1]]])
    gold = bools([1, 0, 1, 0], [0, 0, 0, 0])
    with streaming(Additive(2), graphs) as stream:
        before = stream._gates.forward_passes
        kept = answered(stream, gold_alone(stream, OUTPUT, gold))
        assert stream._gates.forward_passes == before + 1
        assert kept is not None
        assert kept.tolist() == [False, True]
        assert answered(stream, gold_alone(stream, OUTPUT, gold.any(0, keepdim=True))) is None
    with streaming(Additive(1), GRAPHS) as stream:
        whole = answered(stream, gold_alone(stream, OUTPUT, ~MASK))  # (1, E) of one layer is all that there is to know
    assert whole is not None
    assert whole.tolist() == [False, False, True, True]


def test_batches_parts_and_orders_make_no_difference() -> None:
    graphs = random_weights([4, 1, 0, 6, 9], 2)
    draw = torch.Generator().manual_seed(3)
    gates, labels = torch.rand(2, 20, generator=draw, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    index = torch.tensor([4, 2, 0, 3, 1])
    edges = graphs.edges_of(index)
    for given in (None, labels):
        whole = measure(Additive(2), graphs, gates, given)
        split = measure(Additive(2), graphs, gates, given, max_edges=1)
        moved = measure(Additive(2), graphs.select(index), gates[:, edges], None if given is None else given[index])
        for other, order in ((split, torch.arange(5)), (moved, index)):
            assert torch.equal(other.positive, whole.positive[order])
            assert torch.equal(other.negative, whole.negative[order])
            torch.testing.assert_close(other.unfaithfulness, whole.unfaithfulness[order])
        assert 0 < float(whole.positive.mean()) < 1
