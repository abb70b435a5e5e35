"""Outputs of one logit, of a pair of nodes and of several labels, against figures worked out by hand."""

from math import log

import pytest
import torch
from sklearn.metrics import f1_score
from test_output import LN3, TO_EVEN, TWO, batch, near
from torch.nn import functional as F

from attribench.base.errors import UserError
from attribench.model.output import GraphClassification
from attribench.model.output_binary import BinaryClassification, LinkPrediction, MultiLabelClassification

Z = torch.tensor([LN3, -LN3])  # heads with 3/4 and 1/4


def test_one_logit_by_hand() -> None:
    output, even = BinaryClassification(), torch.zeros(2)
    assert output.predict(Z, TWO).tolist() == [1, 0]
    near(output.divergence(Z, even, TWO), TO_EVEN, TO_EVEN)
    near(output.divergence(Z, -Z, TWO), 0.5 * LN3, 0.5 * LN3)  # 3/4 ln 3 - 1/4 ln 3
    near(output.loss(torch.tensor([1, 1]), Z, TWO), log(4 / 3), log(4))
    near(output.target(torch.tensor([1, 0]), Z, TWO, "logit"), LN3, LN3)  # the log-odds of the class
    near(output.target(torch.tensor([0, 0]), Z, TWO, "logit"), -LN3, LN3)
    near(output.target(torch.tensor([0, 0]), Z, TWO, "probability"), 0.25, 0.75)
    assert output.unchanged(Z, Z - 1, TWO).tolist() == [True, True]
    assert output.unchanged(Z, even, TWO).tolist() == [False, True]  # a logit of 0 is class 0
    assert output.metric(Z, torch.tensor([1, 1]), TWO) == 0.5
    assert torch.equal(output.classes(Z, TWO), torch.tensor([1, 0]))  # type: ignore[arg-type]


def test_one_logit_is_that_of_two_classes_of_which_the_first_is_0() -> None:
    z, other = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    graphs, one, two = batch(*[1] * 50), BinaryClassification(), GraphClassification()
    wide, wide_other = (torch.stack([torch.zeros_like(x), x], 1) for x in (z, other))
    labels = (other > 1).long()
    torch.testing.assert_close(one.divergence(z, other, graphs), two.divergence(wide, wide_other, graphs))
    torch.testing.assert_close(one.loss(labels, z, graphs), two.loss(labels, wide, graphs))
    torch.testing.assert_close(
        one.loss(labels, z, graphs), F.binary_cross_entropy_with_logits(z, labels.double(), reduction="none")
    )
    torch.testing.assert_close(
        one.target(labels, z, graphs, "probability"), two.target(labels, wide, graphs, "probability")
    )
    assert torch.equal(one.unchanged(z, other, graphs), two.unchanged(wide, wide_other, graphs))
    assert torch.equal(one.predict(z, graphs), two.predict(wide, graphs))
    assert one.metric(z, labels, graphs) == two.metric(wide, labels, graphs)


def test_a_column_is_as_good_as_a_vector_and_bool_labels_as_numbers() -> None:
    output, column = BinaryClassification(), Z[:, None]
    assert output.check_logits(column, TWO) is None
    near(output.divergence(column, column * 0, TWO), TO_EVEN, TO_EVEN)
    assert output.predict(column, TWO).shape == (2,)
    assert output.metric(column, torch.tensor([True, True]), TWO) == 0.5
    assert output.metric(column, torch.tensor([[1], [1]]), TWO) == 0.5


def test_large_logits_stay_finite_with_their_gradients() -> None:
    output, z = BinaryClassification(), torch.tensor([1000.0, -1000]).requires_grad_()
    divergence = output.divergence(-z.detach(), z, TWO)
    near(divergence, 1000, 1000)
    (gradient,) = torch.autograd.grad(divergence.sum() + output.loss(torch.tensor([0, 1]), z, TWO).sum(), z)
    near(gradient, 2, -2)


def test_one_class_for_every_graph() -> None:
    output = BinaryClassification(target_class=1)
    explained = output.explained(Z, TWO)
    assert explained.tolist() == [1, 1]
    near(output.target(explained, Z, TWO, "logit"), LN3, -LN3)
    near(output.loss(explained, Z, TWO), log(4 / 3), log(4))
    with pytest.raises(UserError, match="0, 1 or None for one logit; got 2"):
        BinaryClassification(target_class=2)


def test_one_graph_of_one_logit() -> None:
    output, one = BinaryClassification(), batch(4)
    assert output.check_logits(torch.tensor([[0.3]]), one) is None
    near(output.divergence(Z[:1], Z[:1] * 0, one), TO_EVEN)


def test_a_pair_of_nodes() -> None:
    graphs, output = batch(3, 2, pair=torch.tensor([[0, 2], [1, 1]])), LinkPrediction(target_class=1)
    assert output.check_logits(Z, graphs) is None
    near(output.divergence(Z, Z * 0, graphs), TO_EVEN, TO_EVEN)
    assert output.explained(Z, graphs).tolist() == [1, 1]
    first = graphs.select(torch.tensor([0]))
    assert output.check_logits(Z[:1], first) is None


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (torch.tensor([[0, 2], [1, 2]]), "graph 1 has 2 nodes and [1, 2]"),
        (torch.tensor([[0, -1], [1, 2]]), "graph 0 has 3 nodes and [0, -1]"),
        (torch.tensor([0, 1]), "got torch.int64 (2,)"),
    ],
)
def test_an_impossible_pair_is_named(pair: torch.Tensor, words: str) -> None:
    message = str(LinkPrediction().check_logits(Z, batch(3, 2, pair=pair)))
    assert message.startswith("expected a graph attribute 'pair' of int64 (2, 2), nodes numbered by graph")
    assert words in message


# Several labels: two graphs with three labels each.
LABELS = torch.tensor([[LN3, -LN3, LN3], [-LN3, -LN3, -LN3]])


def test_several_labels_by_hand() -> None:
    output, masked = MultiLabelClassification(), torch.tensor([[0.0, -LN3, 0], [-LN3, LN3, -LN3]])
    assert output.predict(LABELS, TWO).tolist() == [[1, 0, 1], [0, 0, 0]]
    near(output.divergence(LABELS, masked, TWO), 2 * TO_EVEN, 0.5 * LN3)
    explained = output.explained(LABELS, TWO)
    near(output.loss(explained, masked, TWO), 2 * log(2) + log(4 / 3), 2 * log(4 / 3) + log(4))
    near(output.target(explained, masked, TWO, "logit"), LN3, LN3)  # 0 + ln 3 + 0, and ln 3 - ln 3 + ln 3
    near(output.target(explained, masked, TWO, "probability"), 0.5 * 0.75 * 0.5, 0.75 * 0.25 * 0.75)
    assert output.unchanged(LABELS, LABELS / 2, TWO).tolist() == [True, True]
    assert output.unchanged(LABELS, masked, TWO).tolist() == [False, False]
    assert output.metric(LABELS, torch.tensor([[1, 1, 1], [0, 1, 0]]), TWO) == pytest.approx(2 * 2 / (2 + 4))
    assert output.metric(LABELS * -1, torch.zeros(2, 3).long(), TWO) == 0
    assert output.classes(LABELS, TWO) is None


def test_one_label_alone_is_explained_by_what_is_predicted_of_it() -> None:
    output = MultiLabelClassification(target_class=2)
    explained = output.explained(LABELS, TWO)
    assert explained.tolist() == [[-1, -1, 1], [-1, -1, 0]]
    near(output.loss(explained, LABELS, TWO), log(4 / 3), log(4 / 3))
    near(output.target(explained, -LABELS, TWO, "logit"), -LN3, -LN3)
    near(output.target(explained, LABELS, TWO, "probability"), 0.75, 0.75)
    assert output.unchanged(LABELS, torch.tensor([[-1.0, -1, 1], [-1, -1, -1]]), TWO).tolist() == [False, True]


def test_several_labels_against_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(20, 5, generator=draw), torch.rand(20, 5, generator=draw) < 0.3
    graphs, output = batch(*[1] * 20), MultiLabelClassification()
    expected = f1_score(labels.numpy(), (logits > 0).numpy(), average="micro")
    assert output.metric(logits, labels, graphs) == pytest.approx(expected)
    loss = F.binary_cross_entropy_with_logits(logits, (logits > 0).float(), reduction="none").sum(1)
    torch.testing.assert_close(output.loss(output.explained(logits, graphs), logits, graphs), loss)


def test_one_label_is_a_logit() -> None:
    several, one = MultiLabelClassification(), BinaryClassification()
    column = Z[:, None]
    assert several.check_logits(column, TWO) is None
    torch.testing.assert_close(several.divergence(column, column + 1, TWO), one.divergence(Z, Z + 1, TWO))
    explained = several.explained(column, TWO)
    torch.testing.assert_close(several.loss(explained, column, TWO), one.loss(explained[:, 0], Z, TWO))
    assert several.unchanged(column[:1], column[:1] * 0, batch(2)).tolist() == [False]
