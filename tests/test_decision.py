"""Thresholds are the harness's and must not show: every cut of the validation scores is a candidate."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attribench.scoring.decision import (
    KEEP_ALL,
    KEEP_NONE,
    Choice,
    choose_by_f1,
    choose_by_metric,
    choose_on_paper_grid,
)
from attribench.scoring.gold import micro


def row(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([values], dtype=dtype)


def truth(*values: int) -> Tensor:
    return torch.tensor([values], dtype=torch.bool)


@pytest.mark.parametrize(
    ("values", "gold", "expected"),
    [
        (row(0.064, 0.063, 0.061, 0.060), truth(1, 1, 0, 0), (0.062, 1.0)),  # the grid of 0.1 to 0.9 finds nothing here
        (row(0.875, 0.5, 0.4375, 0.125), truth(1, 0, 0, 0), (0.6875, 1.0)),
        (row(0.0, 1.0, 0.25, 0.5), truth(1, 1, 1, 1), (KEEP_ALL, 1.0)),
        (row(0.0, 1.0, 0.25, 0.5), truth(0, 0, 0, 0), (KEEP_NONE, 1.0)),
        (row(0.3, 0.3, 0.3), truth(1, 0, 0), (KEEP_ALL, 0.5)),  # nothing tells them apart
        (row(0.9, 0.8, 0.2, 0.1), truth(0, 1, 0, 1), (KEEP_ALL, 2 / 3)),
        (row(1.0, 0.75, 0.25, 0.0), truth(1, 0, 0, 1), (0.875, 2 / 3)),  # keep-all is as good; a cut is preferred
    ],
)
def test_threshold_by_gold_by_hand(values: Tensor, gold: Tensor, expected: tuple[float, float]) -> None:
    choice = choose_by_f1(values, gold)
    assert [choice.threshold, choice.f1] == pytest.approx(expected)
    assert choice.at_end == (choice.threshold in (KEEP_ALL, KEEP_NONE))
    assert micro(values > choice.threshold, gold)["f1"] == pytest.approx(choice.f1)


def test_of_equal_ones_the_middle_of_the_widest_gap_then_the_sparsest() -> None:
    gold = truth(1, 0, 1, 1, 0)  # F1 2/4 after one, 2/5 after two, 4/6, 6/7 after four, 6/8
    assert choose_by_f1(row(0.9, 0.8, 0.7, 0.6, 0.1), gold).threshold == pytest.approx(0.35)
    twice = truth(1, 0, 0, 1, 0, 0)  # 2/3 after one and after four
    assert choose_by_f1(row(0.9, 0.8, 0.7, 0.4, 0.1, 0.05), twice).threshold == pytest.approx(0.25)
    assert choose_by_f1(row(0.9, 0.4, 0.3, 0.2, 0.1, 0.05), twice).threshold == pytest.approx(0.65)
    assert choose_by_f1(row(0.875, 0.75, 0.5, 0.375, 0.25, 0.0), twice).threshold == 0.8125


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbouring_numbers_are_told_apart(dtype: torch.dtype) -> None:
    """Their midpoint is no number of their precision."""
    for start in (0.3, 0.7, 1e-30):
        low = torch.tensor(start, dtype=dtype)
        high = torch.nextafter(low, torch.ones_like(low))
        values = torch.stack([low, high, low])[None]
        choice = choose_by_f1(values, truth(0, 1, 0))
        assert choice.f1 == 1
        assert (values > choice.threshold).tolist() == [[False, True, False]]


def test_no_cut_is_better() -> None:
    """A plain search over every distinct score."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(50):
        values = (torch.rand(2, 15, generator=draw) * 8).round() / 8
        gold = torch.rand(2, 15, generator=draw) < torch.rand(1, generator=draw)
        tried = [micro(values > t, gold)["f1"] for t in [-1.0, *values.unique().tolist()]]
        choice = choose_by_f1(values, gold)
        assert choice.f1 == pytest.approx(max(tried))
        assert micro(values > choice.threshold, gold)["f1"] == choice.f1


def test_a_gold_of_edges_is_met_in_any_layer() -> None:
    values = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.7, 0.3]])
    choice = choose_by_f1(values, truth(1, 1, 0))
    assert choice.threshold == pytest.approx(0.5)
    assert choice.f1 == 1


def test_the_papers_grid_takes_the_sparsest_of_the_best() -> None:
    assert choose_on_paper_grid(row(0.85, 0.55, 0.45, 0.15), truth(1, 0, 0, 0)) == 0.8  # 0.6 and 0.7 do as well


def scores_in_order(count: int) -> Tensor:
    """Distinct scores: the n-th largest of them is at place n."""
    return torch.arange(count, 0, -1, dtype=torch.float64)[None] / count


class Metric:
    """Says which numbers of retained messages will do, and counts how often it was asked."""

    def __init__(self, values: Tensor, good: Callable[[int], bool]) -> None:
        self.values, self.good, self.asked = values, good, 0

    def __call__(self, t: float) -> bool:
        self.asked += 1
        return self.good(int((self.values > t).sum()))


@pytest.mark.parametrize("needed", [1, 2, 7, 60, 333, 990, 1000])
def test_threshold_without_gold_is_nearly_the_sparsest_that_will_do(needed: int) -> None:
    values = scores_in_order(1000)
    metric = Metric(values, lambda kept: kept >= needed)
    choice = choose_by_metric(values, metric)
    kept = int((values > choice.threshold).sum())
    assert needed <= kept <= max(6, needed * 1.01)  # the sparsest share tried is 0.6%
    assert metric.asked <= 30
    assert (choice.at_end, choice.f1) == (kept == 1000, None)


def test_a_metric_that_is_not_monotone_is_followed_from_its_sparse_end() -> None:
    """It fails between 100 and 900 retained messages."""
    values = scores_in_order(1000)
    metric = Metric(values, lambda kept: 40 <= kept < 100 or kept > 900)
    kept = int((values > choose_by_metric(values, metric).threshold).sum())
    assert 40 <= kept < 100
    assert metric.asked <= 30


@pytest.mark.parametrize("values", [row(0.5), row(0.5, 0.5, 0.5), row(0.0, 0.0), scores_in_order(50)])
def test_where_nothing_less_will_do_everything_is_kept(values: Tensor) -> None:
    choice = choose_by_metric(values, lambda t: t == KEEP_ALL)
    assert choice == Choice(KEEP_ALL, "validation metric (none within one point but keep-all)", at_end=True)
