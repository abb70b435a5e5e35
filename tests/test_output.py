"""Outputs of classes against figures worked out by hand, and what is refused of outputs and labels."""

from dataclasses import replace
from math import log

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from attribench.base.errors import UserError
from attribench.model.graphs import GraphBatch
from attribench.model.output import GraphClassification, NodeClassification
from attribench.model.output_binary import BinaryClassification, LinkPrediction, MultiLabelClassification
from attribench.model.output_regression import GraphRegression
from attribench.model.output_sequence import SequenceLabelling

LN3 = log(3)  # [0, ln 3] is (1/4, 3/4)
TO_EVEN = 0.25 * log(0.5) + 0.75 * log(1.5)  # KL((1/4, 3/4) || (1/2, 1/2)) = 0.1308
FROM_EVEN = 0.5 * log(2) + 0.5 * log(2 / 3)  # KL((1/2, 1/2) || (1/4, 3/4)) = 0.1438


def batch(*nodes: int, **graph: Tensor) -> GraphBatch:
    """Graphs of these numbers of nodes without edges."""
    empty = torch.zeros(2, 0, dtype=torch.long)
    graphs = GraphBatch.from_data_list([Data(x=torch.zeros(n, 1), edge_index=empty) for n in nodes])
    return replace(graphs, graph=graph)


def near(actual: Tensor, *expected: float) -> None:
    assert actual.tolist() == pytest.approx(expected, abs=1e-6)


TWO = batch(1, 1)
QUARTERS = torch.tensor([[0.0, LN3], [LN3, 0.0]])  # classes 1 and 0, with 3/4
EVEN = torch.tensor([[0.0, 0.0], [0.0, LN3]])


def test_classes_of_graphs_by_hand() -> None:
    output = GraphClassification()
    assert output.predict(QUARTERS, TWO).tolist() == [1, 0]
    assert torch.equal(output.explained(QUARTERS, TWO), torch.tensor([1, 0]))
    assert torch.equal(output.classes(QUARTERS, TWO), torch.tensor([1, 0]))  # type: ignore[arg-type]
    near(output.divergence(QUARTERS, EVEN, TWO), TO_EVEN, 0.5 * LN3)  # 3/4 ln(3/4 / 1/4) + 1/4 ln(1/4 / 3/4)
    near(output.loss(torch.tensor([1, 0]), EVEN, TWO), log(2), log(4))
    near(output.target(torch.tensor([1, 0]), QUARTERS, TWO, "logit"), LN3, LN3)
    near(output.target(torch.tensor([0, 0]), QUARTERS, TWO, "probability"), 0.25, 0.75)
    assert output.unchanged(QUARTERS, EVEN, TWO).tolist() == [False, False]
    assert output.unchanged(QUARTERS, QUARTERS + 1, TWO).tolist() == [True, True]
    assert output.metric(QUARTERS, torch.tensor([1, 1]), TWO) == 0.5
    assert output.row_graph(batch(2, 3)).tolist() == [0, 1]
    assert output.num_labels(batch(2, 3)) == 2
    assert output.fitted(QUARTERS, torch.tensor([1, 1]), TWO) is output


def test_the_class_to_explain_can_be_another() -> None:
    output = GraphClassification(target_class=0)
    explained = output.explained(QUARTERS, TWO)
    assert explained.tolist() == [0, 0]
    near(output.loss(explained, QUARTERS, TWO), log(4), log(4 / 3))
    near(output.target(explained, QUARTERS, TWO, "logit"), 0, LN3)
    assert output.predict(QUARTERS, TWO).tolist() == [1, 0]  # what "unchanged" and the metric are about
    assert output.check_logits(QUARTERS, TWO) is None
    assert "below 2" in str(GraphClassification(target_class=2).check_logits(QUARTERS, TWO))
    for wrong in (-1, True, 1.0):
        with pytest.raises(UserError, match=r"target_class of 0 or more, or None; got"):
            GraphClassification(target_class=wrong)  # type: ignore[arg-type]


def test_only_two_kinds_of_target() -> None:
    with pytest.raises(UserError, match="expected a target among logit, probability; got 'odds'"):
        GraphClassification().target(torch.tensor([0, 0]), EVEN, TWO, "odds")


def test_classes_against_cross_entropy() -> None:
    logits, other = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    graphs, output = batch(1, 2, 3, 1, 1), GraphClassification()
    predicted = output.predict(other, graphs)
    assert torch.equal(output.loss(predicted, logits, graphs), F.cross_entropy(logits, predicted, reduction="none"))
    torch.testing.assert_close(output.target(predicted, logits, graphs, "probability").log(),
                               -output.loss(predicted, logits, graphs))  # fmt: skip


def test_one_graph_and_labels_of_a_column() -> None:
    one, output = batch(3), GraphClassification()
    near(output.divergence(QUARTERS[:1], EVEN[:1], one), TO_EVEN)
    assert output.metric(QUARTERS, torch.tensor([[1], [1]]), TWO) == 0.5  # no pairs of graphs are compared
    assert "flatten" in str(output.check_labels(torch.tensor([[1], [1]]), QUARTERS, TWO))


# Sequence labelling: a graph of two tokens and one of one; every token has classes "none", 1 and 2.
TOKENS = batch(2, 1)
HALVES = torch.tensor([[0.0, LN3, -99], [LN3, 0.0, -99], [0.0, LN3, -99]])


def test_sequence_labelling_by_hand() -> None:
    output, masked = SequenceLabelling(), torch.tensor([[0.0, 0.0, -99], [LN3, 0.0, -99], [0.0, LN3, -99]])
    assert output.predict(HALVES, TOKENS).tolist() == [1, 0, 1]
    near(output.divergence(HALVES, masked, TOKENS), TO_EVEN / 2, 0)  # the mean over the graph's tokens
    near(output.loss(torch.tensor([1, 0, 1]), masked, TOKENS), log(2) + log(4 / 3), log(4 / 3))  # the sum
    near(output.target(torch.tensor([1, 0, 0]), HALVES, TOKENS, "logit"), 2 * LN3, 0)
    near(output.target(torch.tensor([1, 0, 0]), HALVES, TOKENS, "probability"), 1.5, 0.25)
    changed = HALVES.clone()
    changed[0, 0] = 9
    assert output.unchanged(HALVES, changed, TOKENS).tolist() == [False, True]
    assert torch.equal(output.classes(changed, TOKENS), torch.tensor([0, 1]))  # type: ignore[arg-type]
    assert output.metric(HALVES, torch.tensor([1, 2, 2]), TOKENS) == pytest.approx(2 * 1 / (2 + 3))
    assert output.metric(changed, torch.tensor([0, 0, 0]), TOKENS) == 0  # one predicted, none there
    assert output.row_graph(TOKENS).tolist() == [0, 0, 1]
    assert output.num_labels(TOKENS) == 3


def test_sequence_labelling_of_a_graph_without_tokens() -> None:
    output, graphs = SequenceLabelling(), batch(0, 1)
    near(output.divergence(HALVES[:1], EVEN.new_zeros(1, 3), graphs)[:1], 0)
    assert output.unchanged(HALVES[:1], -HALVES[:1], graphs).tolist() == [True, False]


def test_a_label_that_the_model_does_not_know_is_missed_where_the_task_says_so() -> None:
    labels = torch.tensor([1, 3, 1])
    assert "from 0 to 2 as every label; got 3 at position 1" in str(
        SequenceLabelling().check_labels(labels, HALVES, TOKENS)
    )
    output = SequenceLabelling(unseen=True)
    assert output.check_labels(labels, HALVES, TOKENS) is None
    assert output.check_labels(labels + 1, HALVES, TOKENS) is not None
    assert output.metric(HALVES, labels, TOKENS) == pytest.approx(2 * 2 / (2 + 3))


# Node classification: targets are node 2 of the first graph and node 0 of the second.
NODES = batch(3, 2, target=torch.tensor([2, 0]))


def test_the_class_of_a_target_node_is_that_of_its_row() -> None:
    draw = torch.Generator().manual_seed(1)
    logits, other = torch.randn(2, 5, 4, generator=draw)
    output, rows, graphs = NodeClassification(), GraphClassification(), batch(1, 1)
    predicted, labels = output.predict(logits, NODES), torch.tensor([1, 3])
    assert torch.equal(predicted, logits[[2, 3]].argmax(-1))
    assert torch.equal(output.divergence(logits, other, NODES), rows.divergence(logits[[2, 3]], other[[2, 3]], graphs))
    assert torch.equal(output.loss(predicted, other, NODES), rows.loss(predicted, other[[2, 3]], graphs))
    assert torch.equal(output.unchanged(logits, other, NODES), rows.unchanged(logits[[2, 3]], other[[2, 3]], graphs))
    assert torch.equal(
        output.target(predicted, other, NODES, "logit"), rows.target(predicted, other[[2, 3]], graphs, "logit")
    )
    assert output.metric(logits, labels, NODES) == rows.metric(logits[[2, 3]], labels, graphs)
    assert output.row_graph(NODES).tolist() == [0, 0, 0, 1, 1]
    assert output.num_labels(NODES) == 2
    assert output.check_logits(logits, NODES) is None
    assert output.check_labels(labels, logits, NODES) is None


def test_target_nodes_follow_a_selection_and_another_class_can_be_explained() -> None:
    logits, output = torch.eye(5), NodeClassification(target_class=4)
    second = NODES.select(torch.tensor([1]))
    assert output.predict(logits[3:], second).tolist() == [3]
    assert output.explained(logits[3:], second).tolist() == [4]
    near(output.target(output.explained(logits, NODES), logits, NODES, "logit"), 0, 0)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({}, "got none among no attributes: see neighbourhoods()"),
        ({"target": torch.tensor([2, 2])}, "graph 1 has 2 nodes and 2"),
        ({"target": torch.tensor([-1, 0])}, "graph 0 has 3 nodes and -1"),
        ({"target": torch.tensor([2.0, 0])}, "got torch.float32 (2,)"),
        ({"target": torch.tensor([[2], [0]])}, "got torch.int64 (2, 1)"),
    ],
)
def test_a_missing_or_impossible_target_node_is_named(graph: dict[str, Tensor], words: str) -> None:
    message = NodeClassification().check_logits(torch.zeros(5, 2), batch(3, 2, **graph))
    assert message is not None
    assert message.startswith("expected a graph attribute 'target' of int64 (2,)")
    assert words in message


GRAPHS = batch(2, 3)


@pytest.mark.parametrize(
    ("output", "logits", "words"),
    [
        (GraphClassification(), torch.zeros(2, 1), "for one logit use BinaryClassification"),
        (GraphClassification(), torch.zeros(2), "for one logit use BinaryClassification"),
        (GraphClassification(), torch.zeros(5, 3), "(2, C), one row per graph; got (5, 3): pool the nodes"),
        (GraphClassification(), torch.zeros(3, 3), "one row per graph; got (3, 3): return one row for each"),
        (GraphClassification(), torch.zeros(2, 2, 1), "got (2, 2, 1)"),
        (GraphClassification(), torch.tensor(0.0), "got ()"),
        (GraphClassification(), torch.zeros(2, 2).long(), "floating-point output; got torch.int64"),
        (GraphClassification(), (torch.zeros(2, 2), None), "expected a tensor from the model; got tuple"),
        (SequenceLabelling(), torch.zeros(2, 4), "(5, C), one row per node; got (2, 4)"),
        (BinaryClassification(), torch.zeros(2, 2), "for a logit per class use GraphClassification"),
        (BinaryClassification(), torch.zeros(5), "(2,) or (2, 1), one row per graph; got (5,): pool"),
        (MultiLabelClassification(), torch.zeros(2), "use BinaryClassification"),
        (MultiLabelClassification(target_class=3), torch.zeros(2, 3), "target_class below 3"),
        (GraphRegression(), torch.zeros(2, 0), "one value or more per graph; got 0"),
        (GraphRegression(sigma=[1.0, 2]), torch.zeros(2, 3), "2 values, one per sigma, per graph; got 3"),
        (LinkPrediction(), torch.zeros(2), "expected a graph attribute 'pair' of int64 (2, 2)"),
    ],
)
def test_outputs_of_another_shape_are_refused(output: GraphClassification, logits: Tensor, words: str) -> None:
    message = output.check_logits(logits, GRAPHS)
    assert message is not None
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("output", "labels", "words"),
    [
        (GraphClassification(), torch.tensor([0, 3]), "a class from 0 to 2 as every label; got 3 at position 1"),
        (GraphClassification(), torch.tensor([-1, 3]), "got -1 at position 0"),
        (GraphClassification(), torch.tensor([0.0, 1]), "integral labels; got torch.float32"),
        (GraphClassification(), torch.tensor([True, False]), "integral labels; got torch.bool"),
        (GraphClassification(), torch.tensor([0, 1, 1]), "2 labels, one per graph; got shape (3,)"),
        (GraphClassification(), torch.tensor(1), "2 labels, one per graph; got shape ()"),
        (GraphClassification(), torch.zeros(2, 3).long(), "labels of shape (2,); got (2, 3): flatten"),
        (MultiLabelClassification(), torch.tensor([0, 1]), "labels of shape (2, 3); got (2,)"),
        (MultiLabelClassification(), torch.tensor([[0, 1, 1], [1, 0, -1]]), "got -1 at position 1, 2"),
        (MultiLabelClassification(), torch.zeros(2, 3), "bool or integral labels; got torch.float32"),
        (GraphRegression(), torch.zeros(2, 3).long(), "floating-point labels; got torch.int64"),
        (GraphRegression(), torch.zeros(2), "labels of shape (2, 3); got (2,)"),
        (GraphRegression(), torch.tensor([[0, 1, 1], [1, float("nan"), 0]]), "a finite value as every label; got nan"),
    ],
)
def test_labels_that_mean_something_else_are_refused(output: GraphClassification, labels: Tensor, words: str) -> None:
    message = output.check_labels(labels, torch.zeros(2, 3), GRAPHS)
    assert message is not None
    assert words in message
    assert "\n" not in message


def test_right_labels_pass() -> None:
    logits, bits = torch.zeros(2, 3), torch.tensor([[0, 1, 1], [1, 0, 1]])
    for labels in (torch.tensor([0, 2]), torch.tensor([0, 2], dtype=torch.uint8)):
        assert GraphClassification().check_labels(labels, logits, GRAPHS) is None
    for labels in (bits, bits.bool(), bits.to(torch.int32)):
        assert MultiLabelClassification().check_labels(labels, logits, GRAPHS) is None
    for column in (torch.zeros(2), torch.zeros(2, 1)):
        assert BinaryClassification().check_labels(torch.tensor([True, False]), column, GRAPHS) is None
        assert GraphRegression().check_labels(torch.tensor([0.5, 2]), column, GRAPHS) is None
        assert "flatten" in str(GraphRegression().check_labels(torch.zeros(2, 1), column, GRAPHS))
    assert "0 or 1 as every label; got 2" in str(
        BinaryClassification().check_labels(torch.tensor([0, 2]), torch.zeros(2), GRAPHS)
    )


def test_probabilities_are_told_from_logits() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)) * 5
    for output in (GraphClassification(), SequenceLabelling(), NodeClassification()):
        assert output.looks_like_probabilities(logits.softmax(-1))
        for coarse in (torch.float16, torch.bfloat16):
            assert output.looks_like_probabilities(logits.softmax(-1).to(coarse))
        assert not output.looks_like_probabilities(logits)
        assert not output.looks_like_probabilities(logits.log_softmax(-1))  # as good as logits
        assert not output.looks_like_probabilities(logits.abs())
        assert not output.looks_like_probabilities(logits[:0])
    for coins in (BinaryClassification(), MultiLabelClassification()):
        assert coins.looks_like_probabilities(logits.sigmoid())
        assert not coins.looks_like_probabilities(logits)
        assert not coins.looks_like_probabilities(logits * 0)
    assert not GraphRegression().looks_like_probabilities(logits.softmax(-1))
