"""Values against figures worked out by hand: what a difference means is the model's error on validation graphs."""

import pytest
import torch
from sklearn.metrics import r2_score
from test_output import TWO, batch, near

from attribench.base.errors import Skipped, UserError
from attribench.model.output_regression import GraphRegression

VALUES = torch.tensor([1.0, 5.0])


def test_values_by_hand() -> None:
    output, masked = GraphRegression(sigma=2.0), torch.tensor([4.0, 3.0])
    near(output.divergence(VALUES, masked, TWO), 9 / 8, 4 / 8)  # squared difference over 2 sigma squared
    assert output.unchanged(VALUES, masked, TWO).tolist() == [False, True]  # at sigma it is unchanged
    explained = output.explained(VALUES, TWO)
    near(output.loss(explained, masked, TWO), 9 / 8, 4 / 8)
    near(output.target(explained, masked, TWO, "logit"), 4, 3)
    assert output.classes(VALUES, TWO) is None
    assert output.metric(VALUES, torch.tensor([2.0, 4.0]), TWO) == 0  # missed by 1 + 1, varied by 1 + 1
    assert output.metric(VALUES, torch.tensor([5.0, 1.0]), TWO) == -3  # 1 - (16 + 16) / (4 + 4)


def test_sigma_is_the_error_on_validation_graphs() -> None:
    output = GraphRegression()
    fitted = output.fitted(VALUES, torch.tensor([2.0, 12.0]), TWO)
    near(fitted.sigma, 5)  # the root of (1 + 49) / 2
    near(fitted.divergence(VALUES, VALUES + 5, TWO), 0.5, 0.5)
    for use in (lambda: output.divergence(VALUES, VALUES, TWO), lambda: output.unchanged(VALUES, VALUES, TWO)):
        with pytest.raises(UserError, match=r"call output.fitted\(logits, labels, graphs\)"):
            use()
    stated = GraphRegression(sigma=3)
    assert stated.fitted(VALUES, VALUES, TWO) is stated


def test_several_values_each_with_its_sigma() -> None:
    values = torch.tensor([[0.0, 0.0], [2.0, 10.0]])
    output = GraphRegression().fitted(values, torch.tensor([[-1.0, -10.0], [3.0, 20.0]]), TWO)
    near(output.sigma, 1, 10)
    masked = values + torch.tensor([[1.0, 10.0], [0.0, 30.0]])
    near(output.divergence(values, masked, TWO), 1, 4.5)  # 1/2 + 1/2; 0 + 900 / 200
    assert output.unchanged(values, masked, TWO).tolist() == [True, False]
    near(output.target(values, values, TWO, "logit"), 0, 12)
    # value 0: missed 1 + 1 with nothing varied: 0; value 1: 1 - (100 + 100) / (25 + 25) = -3
    assert output.metric(values, torch.tensor([[1.0, 10.0], [1.0, 20.0]]), TWO) == pytest.approx(-1.5)


def test_a_model_that_is_worse_than_a_constant_leaves_no_scale() -> None:
    with pytest.raises(UserError, match="R2 on validation graphs is -49: are the labels in other units"):
        GraphRegression().fitted(torch.tensor([0.0, 0.0]), torch.tensor([6.0, 8.0]), TWO)


def test_a_column_is_a_vector() -> None:
    output, column = GraphRegression(sigma=2.0), VALUES[:, None]
    near(output.divergence(column, column + 2, TWO), 0.5, 0.5)
    assert output.metric(column, torch.tensor([2.0, 4.0]), TWO) == 0  # no pairs of graphs are compared
    assert output.check_logits(column, TWO) is None


def test_r_squared_against_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(30, 3, generator=draw)
    values = truth + torch.randn(30, 3, generator=draw) * torch.tensor([0.1, 1, 3])
    output, graphs = GraphRegression(), batch(*[1] * 30)
    assert output.metric(values, truth, graphs) == pytest.approx(r2_score(truth.numpy(), values.numpy()))


def test_one_graph_has_no_variance_to_explain() -> None:
    output, one = GraphRegression(sigma=1.0), batch(3)
    assert output.metric(torch.tensor([2.0]), torch.tensor([2.0]), one) == 1
    assert output.metric(torch.tensor([2.0]), torch.tensor([2.5]), one) == 0
    near(output.divergence(torch.tensor([2.0]), torch.tensor([3.0]), one), 0.5)


def test_a_model_that_is_right_up_to_rounding_leaves_no_scale() -> None:
    labels = torch.tensor([1e3, 2e3])
    for values in (labels, labels * (1 + 1e-7)):
        with pytest.raises(UserError, match=r"for value 0 on validation graphs: state one, GraphRegression\(sigma="):
            GraphRegression().fitted(values, labels, TWO)
    near(GraphRegression().fitted(labels + 1, labels, TWO).sigma, 1)


def test_labels_that_are_all_the_same_leave_nothing_to_explain() -> None:
    reason = GraphRegression(sigma=1.0).check_labels(torch.full((2,), 3.0), VALUES[:2], TWO)
    assert reason == "expected labels that differ, which R2 needs; got 3.0 for every graph"


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), [1.0, 0.0]])
def test_an_impossible_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(UserError, match="expected a sigma above 0"):
        GraphRegression(sigma=sigma)


def test_a_value_has_no_probability() -> None:
    with pytest.raises(Skipped, match="set target=logit"):
        GraphRegression(sigma=1.0).target(VALUES, VALUES, TWO, "probability")
