"""Scores against scikit-learn, and against figures worked out by hand on models with known weights."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_batch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import SimpleConv

from attribench.model.graphs import GraphBatch
from attribench.model.integrity import differences, fingerprint
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.method import Attribution
from attribench.plugins.task import Problem, Split
from attribench.scoring.gold import against_gold, precision_recall_f1
from attribench.scoring.judge import Judge
from attribench.scoring.scorers_model import SHARES, THINNED


def triple(tp: int, kept: int, gold: int) -> tuple[float, float, float]:
    precision, recall, f1 = precision_recall_f1(*(np.asarray(x) for x in (tp, kept, gold)))
    return float(precision), float(recall), float(f1)


def test_policies_for_nothing_retained_and_nothing_gold() -> None:
    assert triple(0, 0, 0) == (1, 1, 1)
    assert triple(0, 0, 3) == (0, 0, 0)
    assert triple(0, 3, 0) == (0, 0, 0)
    assert triple(0, 2, 2) == (0, 0, 0)
    assert triple(1, 2, 4) == pytest.approx((0.5, 0.25, 1 / 3))


def test_precision_recall_f1_against_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        mask, gold = (random.random(6) < random.random() for _ in range(2))
        policy = 1 if not mask.any() and not gold.any() else 0
        expected = precision_recall_fscore_support(gold, mask, average="binary", zero_division=policy)[:3]
        assert triple(int((mask & gold).sum()), int(mask.sum()), int(gold.sum())) == pytest.approx(expected)


def test_against_gold_takes_the_union_only_where_the_gold_is_one() -> None:
    values = torch.tensor([[0.1, 0.9, 0.2], [0.4, 0.3, 0.1]])
    mask = values > 0.3
    same = against_gold(values, mask, torch.zeros(2, 3))
    assert torch.equal(same[0], values)
    assert torch.equal(same[1], mask)
    united = against_gold(values, mask, torch.zeros(1, 3))
    assert torch.equal(united[0], torch.tensor([[0.4, 0.9, 0.2]]))
    assert united[1].tolist() == [[True, True, False]]


class Votes(GraphModel):
    """Class 1 where the messages that reach node 0, plus its own state, are more than 1/2 in sum.

    With weights w the state is h(k) = h(k-1) + w(k) times the sum of the messages h(k-1).
    """

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = weights
        self.layers = torch.nn.ModuleList(SimpleConv(aggr="sum") for _ in weights)

    def encode(self, graphs: GraphBatch) -> Tensor:
        return graphs["x"]

    def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        for weight, layer in zip(self.weights, self.layers, strict=True):
            state = state + weight * layer(state, graphs.edge_index)
        vote = state[graphs.node_ptr[:-1], 0] - 0.5
        return torch.stack([torch.zeros_like(vote), vote], dim=1)


def stars(*leaves: Sequence[float]) -> GraphBatch:
    """Stars whose leaves send these messages to node 0, whose own state is 0."""
    return GraphBatch.from_data_list(
        [
            Data(
                x=torch.tensor([[0.0], *([value] for value in values)], dtype=torch.float64),
                edge_index=torch.stack([torch.arange(1, len(values) + 1), torch.zeros(len(values), dtype=torch.long)]),
            )
            for values in leaves
        ]
    )


def split(graphs: GraphBatch, labels: Sequence[int], gold: Sequence[Any] | None = None) -> Split:
    return Split(graphs, torch.tensor(labels), None if gold is None else torch.tensor(gold, dtype=torch.bool))


def problem(model: GraphModel, validation: Split, test: Split) -> Problem:
    splits = {"train": validation, "validation": validation, "test": test}
    return Problem(model, GraphClassification(), splits)


VALIDATION = split(stars([1, 1, 1, 1]), [1], [[1, 1, 0, 0]])
TEST = split(
    stars([2, 1, -1], [-2, 1], [1, 1, -3, 2], [-1]),  # sums 2, -1, 1, -1: classes 1, 0, 1, 0
    [1, 0, 1, 1],
    [[1, 0, 1, 1, 0, 0, 0, 0, 0, 1]],
)
SCORES = torch.tensor([[0.9, 0.2, 0.8, 0.3, 0.6, 0.1, 0.2, 0.3, 0.4, 0.5]])
BASELINE = torch.tensor([[1.0], [-8], [1], [-1]], dtype=torch.float64)  # the sign of every graph's answer
STARS = problem(Votes(1.0), VALIDATION, TEST)


def attributions(**test: Any) -> dict[str, Attribution]:
    validation = Attribution(torch.tensor([[0.95, 0.625, 0.375, 0.15]]))  # the gold exactly where 0.375 <= t < 0.625
    return {"validation": validation, "test": Attribution(SCORES, **test)}


def kl(before: float, after: float) -> float:
    """D* between the outputs for sums of messages ``before`` and ``after``."""
    p, q = (1 / (1 + math.exp(0.5 - vote)) for vote in (before, after))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def mean_kl(*after: float) -> float:
    return sum(kl(a, b) for a, b in zip((2, -1, 1, -1), after, strict=True)) / 4


def test_scores_against_the_gold_by_hand() -> None:
    with Judge(STARS) as judge:
        scores = judge.score("method", attributions())
    figures = scores.figures
    assert (figures["threshold"], figures["threshold_source"]) == (0.5, "validation F1")
    # Retained: edges 0 and 2 of the first graph, 1 of the second, none of the others (0.5 is not above 0.5).
    assert figures["retained"] == pytest.approx(3 / 10)
    assert scores.per_graph["true_positive"].tolist() == [2, 0, 0, 0]
    assert scores.per_graph["retained"].tolist() == scores.per_graph["retained_messages"].tolist() == [2, 1, 0, 0]
    assert scores.per_graph["gold"].tolist() == [2, 1, 0, 1]
    assert [scores.per_graph[name].tolist() for name in ("precision", "recall", "f1")] == [[1, 0, 1, 0]] * 3
    expected = {
        **{"precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7},
        **{f"{name}_macro": 1 / 2 for name in ("precision", "recall", "f1")},
        **{f"{name}_predicted_1": 1 for name in ("precision", "recall", "f1")},
        **{f"{name}_predicted_0": 0 for name in ("precision", "recall", "f1")},
        # Gold edges have 0.9, 0.8, 0.3, 0.5, which beat 6, 6, 3 (and tie with one) and 5 of the 6 others.
        "auroc": (6 + 6 + 3.5 + 5) / 24,
        "average_precision": (1 + 1 + 3 / 4 + 4 / 7) / 4,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_scores_against_the_model_by_hand() -> None:
    with Judge(STARS) as judge:
        scores = judge.score("method", attributions(baselines=(BASELINE,), diagnostics={"steps": torch.arange(4)}))
    own, zero = (2, -7, 4, -1), (1, 1, 0, 0)  # sums of the masked passes
    assert scores.per_graph["unchanged_own"].tolist() == [True, True, True, True]
    assert scores.per_graph["unchanged_zero"].tolist() == [True, False, False, True]
    assert scores.per_graph["divergence_zero"].tolist() == pytest.approx([kl(2, 1), kl(-1, 1), kl(1, 0), kl(-1, 0)])
    assert scores.per_graph["diagnostic_steps"].tolist() == [0, 1, 2, 3]
    expected = {
        **{"unchanged_own": 1, "unchanged_own_predicted_0": 1, "unchanged_own_predicted_1": 1},
        **{"unchanged_zero": 1 / 2, "unchanged_zero_predicted_0": 1 / 2, "unchanged_zero_predicted_1": 1 / 2},
        **{"divergence_own": mean_kl(*own), "divergence_zero": mean_kl(*zero)},
        **{"metric_own": 3 / 4, "metric_zero": 1 / 4, "diagnostic_steps": 1.5},
        **{"unchanged_own_at_0.1": 1, "divergence_own_at_0.1": mean_kl(2 + 2, 1 - 8, 2 + 3, -1)},
        **{"unchanged_zero_at_0.1": 3 / 4, "divergence_zero_at_0.1": mean_kl(2, 1, 2, -1)},
        **{"unchanged_own_at_0.5": 1, "divergence_own_at_0.5": mean_kl(1 + 1, 1 - 8, -1 + 2, -1)},
        **{"unchanged_zero_at_0.5": 1 / 2, "divergence_zero_at_0.5": mean_kl(1, 1, -1, -1)},
    }
    assert {name: scores.figures[name] for name in expected} == pytest.approx(expected)
    assert {name for name in scores.figures if "_at_0" in name} == {
        f"{figure}_{which}_at_{share}"
        for figure in ("unchanged", "divergence")
        for which in ("own", "zero")
        for share in SHARES
    }
    assert scores.per_graph["predicted"].tolist() == [1, 0, 1, 0]
    assert scores.per_graph["edges"].tolist() == [3, 2, 4, 1]


def test_a_hard_mask_is_scored_as_it_is() -> None:
    mask = SCORES < 0.35  # against the scores: what is scored must be the mask
    with Judge(STARS) as judge:
        figures = judge.score("method", {"test": Attribution(SCORES, hard_mask=mask)}).figures
    assert (figures["threshold"], figures["threshold_source"]) == (None, "hard mask of the method")
    assert figures["retained"] == pytest.approx(5 / 10)
    assert (figures["precision"], figures["recall"]) == pytest.approx((1 / 5, 1 / 4))
    assert figures["divergence_zero"] == pytest.approx(mean_kl(1, -2, -1, 0))
    assert (figures["unchanged_zero_predicted_0"], figures["unchanged_zero_predicted_1"]) == (1, 1 / 2)


def test_relative_scores_are_normalised_before_the_threshold() -> None:
    scaled = SCORES * torch.tensor([10.0] * 3 + [0.1] * 2 + [-1.0] * 4 + [7.0])
    with Judge(STARS) as judge:
        given = {"validation": attributions()["validation"], "test": Attribution(scaled, "relative")}
        scores = judge.score("method", given)
    # Shares of the graph's largest: 1, 0.22, 0.89; 0.5, 1; 0.25, 0.5, 0.75, 1; 1.
    assert scores.per_graph["retained"].tolist() == [2, 1, 2, 1]


def test_problem_controls_by_hand() -> None:
    with Judge(STARS) as judge:
        rows = {row.method: row for row in judge.problem_controls()}
    assert list(rows) == ["keep-all", "drop-all", "gold"]
    assert {row.kind for row in rows.values()} == {"control"}
    keep, drop, gold = (rows[name].figures for name in ("keep-all", "drop-all", "gold"))
    names = ("retained", "precision", "recall", "unchanged_zero", "divergence_zero", "metric_zero", "auroc")
    assert [keep[name] for name in names] == pytest.approx([1, 4 / 10, 1, 1, 0, 3 / 4, 1 / 2])
    assert [drop[name] for name in names] == pytest.approx([0, 0, 0, 1 / 2, mean_kl(0, 0, 0, 0), 1 / 4, 1 / 2])
    assert [gold[name] for name in names] == pytest.approx([4 / 10, 1, 1, 3 / 4, mean_kl(1, -2, 0, -1), 1 / 2, 1])
    without = Problem(STARS.model, STARS.output, {**STARS.splits, "test": Split(TEST.graphs, TEST.labels)})
    with Judge(without) as judge:
        rows = {row.method: row for row in judge.problem_controls()}
    assert list(rows) == ["keep-all", "drop-all"]
    assert not any("precision" in name or "f1" in name or name == "auroc" for name in rows["keep-all"].figures)


def test_controls_of_a_method_by_hand() -> None:
    given = attributions(baselines=(BASELINE,))
    with Judge(STARS) as judge:
        _, matched, closed = judge.method_and_controls("method", given, seed=0)
        others = [judge.method_and_controls("method", given, seed=seed)[1] for seed in range(1, 9)]
        bare = [row.method for row in judge.method_and_controls("bare", attributions(), seed=0)]
    assert bare == ["bare", "random(bare)"]
    assert (matched.method, closed.method) == ("random(method)", "drop-all(method)")
    assert matched.kind == closed.kind == "control"
    assert matched.per_graph["retained"].tolist() == [2, 1, 0, 0]
    assert len({tuple(row.per_graph["true_positive"]) for row in others}) > 1
    assert matched.figures["unchanged_own"] == 1 != matched.figures["unchanged_zero"]  # with the method's baseline, too
    # A baseline that carries the answer keeps every prediction without any message: the leakage control.
    assert closed.figures["retained"] == 0
    assert closed.figures["unchanged_own"] == 1
    assert closed.figures["unchanged_zero"] == 1 / 2
    assert closed.figures["divergence_own"] == pytest.approx(mean_kl(3, -16, 4, -1))


def chain(a: float, b: float, c: float) -> Data:
    """Edge 0 runs from node 1 to 0, edge 1 from node 2 to 1."""
    return Data(x=torch.tensor([[a], [b], [c]], dtype=torch.float64), edge_index=torch.tensor([[1, 2], [0, 1]]))


# With weights 1 and 2 the vote is a + b + 2 (b + c): 5.2, -2 and -4.
CHAINS = GraphBatch.from_data_list([chain(0, 0.4, 2), chain(1, -1, 0), chain(0, 2, -5)])
LAYERED = torch.tensor([[0.9, 0.2, 0, 0, 0.1, 0.4], [0.2, 0.7, 0.6, 0.55, 0.3, 0.2]])


def chains(gold: Sequence[Any] | None) -> Problem:
    part = split(CHAINS, [1, 0, 0], gold)
    return problem(Votes(1.0, 2.0), part, part)


def test_ablations_by_hand() -> None:
    with Judge(chains(None)) as judge:
        assert judge.num_layers == 2
        # Without layer 1 the vote is a + 2 b: 0.8, -1, 4. Without layer 2 it is a + b: 0.4, 0, 2.
        assert judge.ablations() == pytest.approx([2 / 3, 1 / 3])


def test_gold_of_one_row_is_scored_against_the_union_of_the_layers() -> None:
    given = {"test": Attribution(LAYERED, hard_mask=LAYERED > 0.5)}
    with Judge(chains([[1, 1, 1, 0, 1, 1]])) as judge:
        scores = judge.score("method", given)
        (gold,) = (row for row in judge.problem_controls() if row.method == "gold")
    assert scores.per_graph["true_positive"].tolist() == [2, 1, 0]
    assert scores.per_graph["retained"].tolist() == [2, 2, 0]
    assert scores.per_graph["retained_messages"].tolist() == [2, 2, 0]
    figures = scores.figures
    assert (figures["precision"], figures["recall"], figures["f1"]) == pytest.approx((3 / 4, 3 / 5, 6 / 9))
    assert figures["auroc"] == pytest.approx(3 / 5)  # largest over layers: 0.9, 0.7, 0.6, 0.3, 0.4 against 0.55
    assert figures["retained"] == pytest.approx(4 / 12)
    assert gold.figures["retained"] == pytest.approx(5 / 6)
    assert gold.figures["f1"] == 1


def test_layer_shares_by_hand() -> None:
    with Judge(chains(None)) as judge:
        layers = judge.score("method", {"test": Attribution(LAYERED, hard_mask=LAYERED > 0.5)}).layers
        empty = judge.score("method", {"test": judge.constant("test", 0)}).layers
    # Shares of layer 1 per graph: 1.1 of 2.0, 0 of 1.15, 0.5 of 1.0.
    expected = [
        {"layer": 0, "attribution_share": (0.55 + 0 + 0.5) / 3, "retained": 1 / 6, "retained_share": 1 / 4},
        {"layer": 1, "attribution_share": (0.45 + 1 + 0.5) / 3, "retained": 3 / 6, "retained_share": 3 / 4},
    ]
    for row, by_hand in zip(layers, expected, strict=True):
        assert {name: row[name] for name in by_hand} == pytest.approx(by_hand)
    assert [(row["attribution_share"], row["retained_share"]) for row in empty] == [(0, 0), (0, 0)]


def test_gold_of_every_layer_against_scikit_learn() -> None:
    graphs = random_batch([(3, 5), (4, 9), (2, 1), (3, 0), (3, 12)])
    draw = torch.Generator().manual_seed(1)
    gold = torch.rand(2, graphs.num_edges, generator=draw) < 0.4
    scores = (gold * 0.3 + torch.rand(gold.shape, generator=draw)).clamp(max=1).mul(10).round() / 10  # with ties
    mask = scores > 0.5
    part = Split(graphs, torch.zeros(5, dtype=torch.long), gold)
    with Judge(problem(Votes(1.0, 2.0), part, part)) as judge:
        row = judge.score("method", {"test": Attribution(scores, hard_mask=mask)})
    truth, kept = gold.flatten().numpy(), mask.flatten().numpy()
    micro = precision_recall_fscore_support(truth, kept, average="binary")[:3]
    names = ("precision", "recall", "f1")
    assert [row.figures[name] for name in names] == pytest.approx(micro)
    assert row.figures["auroc"] == pytest.approx(roc_auc_score(truth, scores.flatten()))
    assert row.figures["average_precision"] == pytest.approx(average_precision_score(truth, scores.flatten()))
    by_graph = []
    for g in range(5):
        own = graphs.edge_graph == g
        policy = 1 if not gold[:, own].any() and not mask[:, own].any() else 0
        truth, kept = gold[:, own].flatten().numpy(), mask[:, own].flatten().numpy()
        if truth.size:
            by_graph.append(precision_recall_fscore_support(truth, kept, average="binary", zero_division=policy)[:3])
        else:
            by_graph.append((1.0, 1.0, 1.0))
    for name, values in zip(names, zip(*by_graph, strict=True), strict=True):
        assert row.per_graph[name] == pytest.approx(values)
        assert row.figures[f"{name}_macro"] == pytest.approx(np.mean(values))


@pytest.mark.parametrize("gold", [[[0] * 10], [[1] * 10]])
def test_threshold_free_figures_need_gold_of_both_kinds(gold: list[list[int]]) -> None:
    with Judge(problem(Votes(1.0), VALIDATION, split(TEST.graphs, [1, 0, 1, 1], gold))) as judge:
        figures = judge.score("method", attributions()).figures
    assert figures["auroc"] is figures["average_precision"] is None


def test_the_judge_leaves_the_model_as_it_found_it() -> None:
    before = fingerprint(STARS.model, TEST.graphs)
    with Judge(STARS) as judge:
        judge.score("method", attributions())
    assert differences(before, fingerprint(STARS.model, TEST.graphs)) == []


@pytest.mark.parametrize(("per_layer", "lost"), [(True, lambda s: (1 - s) ** 2), (False, lambda s: 1 - s)])
def test_without_gold_it_is_scored_what_the_mask_loses_and_whether_all_of_it_is_needed(
    per_layer: bool, lost: Any
) -> None:
    """Each of 4000 stars has one leaf, whose message in either of two layers is enough."""
    many = split(stars(*[[1.0]] * 4000), [1] * 4000)
    scores = torch.ones(2, 4000)
    scores[:, 3000:] = 0
    with Judge(problem(Votes(1.0, 1.0), many, many)) as judge:
        figures = judge.score("x", {"test": Attribution(scores, hard_mask=scores > 0, per_layer=per_layer)}).figures
    assert figures["metric_fall"] == 0.25
    assert [figures[f"{name}_layer_{k}"] for name in ("attribution_share", "retained_share") for k in (0, 1)] == [
        *(0.375, 0.375),  # of no layer where a graph's scores are all 0
        *(0.5, 0.5),
    ]
    for share in THINNED:
        expected = 0.25 + 0.75 * lost(share)
        assert figures[f"metric_fall_thinned_to_{share:g}"] == pytest.approx(expected, abs=4 * 0.5 / 3000**0.5)
    with Judge(STARS) as judge:
        assert not [name for name in judge.score("x", attributions()).figures if name.startswith("metric_fall")]


def test_what_is_lost_is_lost_with_the_methods_own_baseline() -> None:
    one = split(stars([1.0], [1.0]), [1, 1])
    closed = Attribution(torch.zeros(1, 2), hard_mask=torch.zeros(1, 2, dtype=torch.bool))
    answering = Attribution(closed.scores, hard_mask=closed.hard_mask, baselines=(torch.ones(1, dtype=torch.float64),))
    with Judge(problem(Votes(1.0), one, one)) as judge:
        for attribution, fall in ((closed, 1.0), (answering, 0.0)):
            figures = judge.score("x", {"test": attribution}).figures
            assert {figures[n] for n in figures if n.startswith("metric_fall")} == {fall}
