"""One of a graph's own candidates: what is not there has no probability, no divergence and no gradient."""

from dataclasses import replace

import pytest
import torch
from helpers import random_batch
from torch import Tensor
from torch.nn import functional as F

from attribench.model.graphs import GraphBatch
from attribench.model.output_choice import MultipleChoice

CHOICES = torch.tensor([[True, True, False], [True, False, True], [False, True, False]])


def batch(choices: Tensor | None = CHOICES) -> GraphBatch:
    graphs = random_batch([(2, 1), (3, 2), (2, 2)])
    return replace(graphs, graph={**graphs.graph, **({} if choices is None else {"choices": choices})})


def test_figures_are_those_of_the_candidates_alone() -> None:
    draw, output, graphs = torch.Generator().manual_seed(0), MultipleChoice(), batch()
    reference, logits = torch.randn(2, 3, 3, generator=draw)
    reference = reference.masked_fill(~CHOICES, 50.0)  # whatever stands there
    assert output.predict(reference, graphs).tolist() == [
        int(CHOICES[g].nonzero()[:, 0][reference[g][CHOICES[g]].argmax()]) for g in range(3)
    ]
    divergence = output.divergence(reference, logits, graphs)
    for g in range(3):
        p, q = (x[g][CHOICES[g]].log_softmax(0) for x in (reference, logits))
        torch.testing.assert_close(divergence[g], F.kl_div(q, p, log_target=True, reduction="sum"))
    labels = output.predict(logits, graphs)
    loss = output.loss(labels, logits, graphs)
    torch.testing.assert_close(loss, output.target(labels, logits, graphs, "probability").log().neg())
    assert loss[2] == 0  # one candidate
    torch.testing.assert_close(output.target(labels, logits, graphs, "logit"), logits.gather(1, labels[:, None])[:, 0])
    assert output.classes(reference, graphs) is None
    assert torch.equal(output.divergence(logits, logits, graphs), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_no_candidate_has_no_gradient(dtype: torch.dtype) -> None:
    output, graphs = MultipleChoice(), batch()
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    output.divergence(torch.zeros(3, 3, dtype=dtype), logits, graphs).sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert bool((logits.grad[~CHOICES] == 0).all())
    assert bool((logits.grad[0, :2] != 0).all())


def test_an_answer_that_is_no_candidate_counts_as_missed() -> None:
    logits, graphs = torch.tensor([[1.0, 0, 9], [1.0, 9, 0], [0.0, 1, 0]]), batch()
    assert MultipleChoice(unseen=True).metric(logits, torch.tensor([0, 0, 3]), graphs) == pytest.approx(2 / 3)
    assert MultipleChoice(unseen=True).check_labels(torch.tensor([0, 0, 3]), logits, graphs) is None
    assert "expected a class from 0 to 2" in str(MultipleChoice().check_labels(torch.tensor([0, 0, 3]), logits, graphs))


@pytest.mark.parametrize(
    ("choices", "got"),
    [
        (None, "got none among"),
        (CHOICES.long(), "got torch.int64"),
        (CHOICES[:, :2], r"got torch.bool \(3, 2\)"),
        (CHOICES & torch.tensor([[True], [False], [True]]), "graph 1 has none"),
    ],
)
def test_graphs_must_say_their_candidates(choices: Tensor | None, got: str) -> None:
    with pytest.raises(AssertionError, match=got):
        assert MultipleChoice().check_logits(torch.zeros(3, 3), batch(choices)) is None
