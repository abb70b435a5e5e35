"""Layers' shares of the score against what their loss costs, by hand."""

import math

import pytest
import torch
from additive_helpers import Additive, random_weights, streaming, weighted_batch
from helpers import bare_batch

from attribench.model.output import GraphClassification
from attribench.scoring.agreement import layer_ablations, layer_shares, rank_agreement
from attribench.scoring.grids import mean_over_graphs
from attribench.scoring.passes import answered

OUTPUT = GraphClassification()


def test_layer_shares_by_hand() -> None:
    """Graphs of 2, 1 and 0 edges, and one of 1 without score."""
    graphs = bare_batch([2, 1, 0, 1])
    values = torch.tensor([[0.5, 0.5, 0.2, 0], [0.0, 1.0, 0.6, 0], [2.0, 0.0, 0.0, 0]])
    shares, nan = layer_shares(values, graphs), math.nan
    expected = [[0.25, 0.25, nan, nan], [0.25, 0.75, nan, nan], [0.5, 0, nan, nan]]
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    # The mean over graphs, as in Table 7: of pooled scores the first layer's share would be 1.2 / 4.8.
    assert mean_over_graphs(shares).tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert mean_over_graphs(layer_shares(values * 0, graphs)).isnan().all()


def test_layer_ablations_by_hand() -> None:
    """Logits of 1 + 2 - 0.5 and -4 + 1 + 1; without a layer 1.5, 0.5, 3 and 2, -3, -3."""
    graphs, labels = weighted_batch([[[1, 2, -0.5]], [[-4, 1, 1]]]), torch.tensor([1, 0])
    with streaming(Additive(3), graphs) as stream:
        before = stream._gates.forward_passes
        found = answered(stream, layer_ablations(stream, OUTPUT, labels))
        assert stream._gates.forward_passes - before == 3
    assert found.metric.tolist() == [0.5, 1, 1]
    assert found.unchanged.tolist() == [[True, False], [True, True], [True, True]]
    p, q = 1 / (1 + math.exp(-2.5)), 1 / (1 + math.exp(-0.5))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert float(found.divergence[1, 0]) == pytest.approx(expected)
    shares = torch.tensor([0.7, 0.2, 0.1])
    agreement = rank_agreement(shares, 1 - found.metric)
    assert agreement.spearman == pytest.approx(math.sqrt(3) / 2)  # losses 0.5, 0, 0, of which two are ties
    assert agreement.kendall == pytest.approx(2 / math.sqrt(6))


def test_ablations_in_parts_and_in_another_order() -> None:
    graphs, labels = random_weights([3, 0, 5, 2], 3), torch.tensor([0, 1, 1, 0])
    index = torch.tensor([2, 0, 3, 1])
    with streaming(Additive(3), graphs) as stream:
        whole = answered(stream, layer_ablations(stream, OUTPUT, labels))
    with streaming(Additive(3), graphs, 1) as stream:
        split = answered(stream, layer_ablations(stream, OUTPUT, labels))
    with streaming(Additive(3), graphs.select(index)) as stream:
        moved = answered(stream, layer_ablations(stream, OUTPUT, labels[index]))
    for other, order in ((split, torch.arange(4)), (moved, index)):
        torch.testing.assert_close(other.divergence, whole.divergence[:, order])
        assert torch.equal(other.unchanged, whole.unchanged[:, order])
        assert torch.equal(other.metric, whole.metric)


def test_the_papers_tables() -> None:
    """Tables 6 and 7: GraphMask's shares have the order of the losses, those of the other two the reverse."""
    losses = 59.0 - torch.tensor([33.1, 41.6, 52.0])
    graphmask, ig = torch.tensor([51.6, 28.8, 19.6]), torch.tensor([11.3, 33.0, 55.7])
    assert rank_agreement(graphmask, losses).spearman == rank_agreement(graphmask, losses).kendall == 1
    assert rank_agreement(ig, losses).spearman == pytest.approx(-1)
    # Four layers, one pair of neighbours exchanged: rho 1 - 6 * 2 / (4 * 15), tau (5 - 1) / 6.
    agreement = rank_agreement(torch.tensor([1.0, 2, 4, 3]), torch.tensor([10.0, 20, 30, 40]))
    assert agreement.spearman == pytest.approx(0.8)
    assert agreement.kendall == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("shares", "losses"),
    [
        ([0.4, 0.6], [1, 2]),
        ([0.3, 0.3, 0.4], [1, 1, 1]),
        ([1 / 3, 1 / 3 + 1e-15, 1 / 3 - 1e-15], [1, 2, 3]),  # the same but for rounding
        ([math.nan] * 3, [1, 2, 3]),
        ([0.2, 0.3, 0.5], [1, math.inf, 3]),
    ],
)  # fmt: skip
def test_no_agreement_where_there_is_no_order(shares: list[float], losses: list[float]) -> None:
    found = rank_agreement(torch.tensor(shares, dtype=torch.float64), torch.tensor(losses, dtype=torch.float64))
    assert found.spearman is None
    assert found.kendall is None


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="expected shares and losses"):
        rank_agreement(torch.ones(3), torch.ones(3, 1))
