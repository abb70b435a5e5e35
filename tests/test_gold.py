"""Scores against a gold mask of every layer: by hand, and against scikit-learn."""

from dataclasses import replace

import pytest
import torch
from helpers import random_batch
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from attribench.model.graphs import GraphBatch
from attribench.model.output import GraphClassification
from attribench.plugins.configs import make_config
from attribench.plugins.method import Attribution
from attribench.plugins.registry import TASKS
from attribench.plugins.task import Problem, TaskSeeds, Workshop, build_problem, without_cache
from attribench.scoring.gold import by_layer, share_error
from attribench.scoring.judge import Judge
from attribench.scoring.row import Scores

GRAPHS = random_batch([(3, 5), (4, 9), (2, 1), (3, 12)])


def test_every_layer_against_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(2)
    gold = torch.rand(3, GRAPHS.num_edges, generator=draw) < torch.tensor([[0.2], [0.4], [0.7]])
    scores = (gold * 0.3 + torch.rand(gold.shape, generator=draw)).clamp(max=1)
    rows = by_layer(scores, scores > 0.5, gold)
    for k, row in enumerate(rows):
        truth = gold[k].numpy()
        expected = precision_recall_fscore_support(truth, (scores[k] > 0.5).numpy(), average="binary")[:3]
        assert [row[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected)
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, scores[k].numpy()))
        assert row["gold_share"] == pytest.approx(gold[k].sum() / gold.sum())


def test_a_layer_without_gold() -> None:
    gold = torch.zeros(2, GRAPHS.num_edges, dtype=torch.bool)
    gold[0, 0] = True
    kept, nothing = by_layer(gold.double(), gold, gold), by_layer(gold.double(), ~gold, gold)
    assert kept[1] == {"precision": 1, "recall": 1, "f1": 1, "auroc": None, "gold_share": 0}
    assert (nothing[1]["precision"], nothing[1]["f1"]) == (0, 0)


def pairs(edges: int) -> GraphBatch:
    return random_batch([(3, edges)] * 4)


def test_share_error_by_hand() -> None:
    """Two messages per layer and graph; the third graph has no gold and the fourth no scores."""
    gold = torch.tensor([[1, 1, 1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0]]).bool()
    scores = torch.tensor([[0.3, 0.0, 0.5, 0.5, 1, 1, 0, 0], [0.3, 0.6, 0.5, 0.5, 1, 1, 0, 0]]).double()
    # Shares of the first layer: 0.3 of 1.2 against all, 1 of 2 against 1 of 2.
    assert share_error(scores, gold, pairs(2)) == pytest.approx((0.75 + 0) / 2)
    assert share_error(gold, gold, pairs(2)) == 0
    assert share_error(gold.flip(0), gold, pairs(2)) == pytest.approx((1 + 0 + 1) / 3)
    assert share_error(scores * 0, gold, pairs(2)) is None


def build() -> Problem:
    kind = TASKS["two-hop"]
    task = kind(make_config("two-hop", kind.Config, {"train": 10, "validation": 20, "test": 60}))
    return build_problem(task, TaskSeeds(1000, 1000), Workshop(torch.device("cpu"), without_cache))


def score(problem: Problem, swap: bool, per_layer: bool = True) -> Scores:
    """Score the gold, or the gold with its layers exchanged."""
    attributions = {}
    for name in ("validation", "test"):
        gold = problem.splits[name].gold
        assert gold is not None
        mask = gold.flip(0) if swap else gold
        mask = mask if per_layer else mask.any(0).expand_as(mask)
        attributions[name] = Attribution(mask.float(), hard_mask=mask, per_layer=per_layer)
    with Judge(problem) as judge:
        return judge.score("method", attributions)


def test_the_right_edges_in_the_wrong_layers() -> None:
    """Over the union of layers all is found; in every layer, and in all, nothing is."""
    problem = build()
    gold = problem.splits["test"].gold
    assert gold is not None
    right, wrong = score(problem, False), score(problem, True)
    assert not (gold[0] & gold[1]).any()
    assert right.figures["f1"] == right.figures["f1_union"] == right.figures["f1_layer_0"] == 1
    assert right.figures["layer_share_error"] == right.figures["layer_share_error_mask"] == 0
    assert (wrong.figures["f1"], wrong.figures["f1_union"], wrong.figures["auroc_union"]) == (0, 1, 1)
    assert [wrong.figures[f"recall_layer_{k}"] for k in (0, 1)] == [0, 0]
    assert [layer["f1"] for layer in wrong.layers] == [0, 0]
    assert wrong.figures["gold_share_layer_0"] == pytest.approx(float(gold[0].sum() / gold.sum()))
    counts = problem.splits["test"].graphs.sum_per_graph(gold.double())
    shares = (counts / counts.sum(0).clamp(min=1))[:, counts.sum(0) > 0]
    assert wrong.figures["layer_share_error"] == pytest.approx(float((shares[0] - shares[1]).abs().mean()))
    assert wrong.figures["unchanged_zero"] != right.figures["unchanged_zero"] == 1


def test_one_mask_for_all_layers_is_labelled() -> None:
    problem = build()
    shared = score(problem, False, per_layer=False).figures
    assert shared["one_mask"]
    assert not score(problem, False).figures["one_mask"]
    assert shared["f1_union"] == 1
    assert shared["f1"] == pytest.approx(2 / 3)  # every edge is counted in the layer in which it is not gold, too
    assert shared["recall_layer_1"] == 1


def test_gold_of_the_union_has_no_layers() -> None:
    problem = build()
    splits = {
        name: replace(split, gold=None if split.gold is None else split.gold.any(0, keepdim=True))
        for name, split in problem.splits.items()
    }
    union = Problem(problem.model, GraphClassification(), splits)
    mask = torch.ones(2, splits["test"].graphs.num_edges, dtype=torch.bool)
    with Judge(union) as judge:
        row = judge.score("method", {"test": Attribution(mask.float(), hard_mask=mask)})
    assert not {"f1_union", "layer_share_error", "f1_layer_0"} & set(row.figures)
    assert row.figures["attribution_share_layer_0"] == pytest.approx(0.5)
