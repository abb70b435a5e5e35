"""Every method explains every kind of output, and the harness scores what it says."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attribench.checking.methods import ContractModel, random_graphs
from attribench.model.graphs import GraphBatch
from attribench.model.output import GraphClassification, NodeClassification, Output
from attribench.model.output_binary import BinaryClassification, LinkPrediction, MultiLabelClassification
from attribench.model.output_regression import GraphRegression
from attribench.plugins.configs import make_config
from attribench.plugins.method import Attribution, Method
from attribench.plugins.registry import METHODS
from attribench.plugins.task import Problem, Split
from attribench.scoring.judge import Judge


class Net(ContractModel):
    """The contract's R-GCN of one layer, whose readout is of three values per graph, cut to what an output needs."""

    def __init__(self, output: Output) -> None:
        super().__init__(1)
        self.output = output

    def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        if self.output.unit == "node":
            state = self.layers[0](state, graphs.edge_index, graphs["edge_type"]).tanh()
        logits: Tensor = super().decode(graphs, state) if self.output.unit == "graph" else self.readout(state)
        return logits[:, 0] if isinstance(self.output, BinaryClassification) else logits


def problem(output: Output) -> Problem:
    """A problem in which all labels are what the model says, but for one graph in two."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net(output).double().eval()
    splits = {}
    for name, count in (("train", 20), ("validation", 8), ("test", 6)):
        graphs = random_graphs(count, name)
        graphs.graph["target"] = graphs.num_nodes_per_graph - 1
        graphs.graph["pair"] = torch.stack([graphs["target"], graphs["target"] - 1], 1)
        with torch.no_grad():
            logits = model(graphs)
        labels = output.predict(logits, graphs)
        labels[::2] = labels[::2] + 1.0 if labels.is_floating_point() else labels[::2] * 0
        assert output.check_logits(logits, graphs) is None
        assert output.check_labels(labels, logits, graphs) is None
        splits[name] = Split(graphs, labels)
    validation = splits["validation"]
    with torch.no_grad():
        fitted = output.fitted(model(validation.graphs), validation.labels, validation.graphs)
    return Problem(model, fitted, splits)


OUTPUTS: list[Callable[[], Output]] = [
    lambda: GraphClassification(target_class=2),
    BinaryClassification,
    MultiLabelClassification,
    lambda: MultiLabelClassification(target_class=1),
    GraphRegression,
    NodeClassification,
    LinkPrediction,
]


@pytest.mark.parametrize("make", OUTPUTS)
@pytest.mark.parametrize("name", sorted({*METHODS} - {"gate-values"}))  # which is for models with gates
def test_every_method_explains_every_output(name: str, make: Callable[[], Output]) -> None:
    subject = problem(make()).subject()
    kind: type[Method] = METHODS[name]
    method = kind(make_config(name, kind.Config, kind.quick), subject=subject)
    method.fit()
    graphs = subject.validation
    attribution = method.explain(graphs)
    alone = method.explain(graphs.select(torch.tensor([2])))
    torch.testing.assert_close(attribution.select(graphs, torch.tensor([2])).scores, alone.scores)


@pytest.mark.parametrize("output", [MultiLabelClassification(), GraphRegression()])
def test_figures_are_not_broken_down_where_there_are_no_classes(output: Output) -> None:
    with Judge(problem(output)) as judge:
        graphs = judge.recordings["test"].graphs
        scores = torch.rand(1, graphs.num_edges, generator=torch.Generator().manual_seed(0))
        row = judge.score("some", {"test": Attribution(scores, hard_mask=scores > 0.5)})
        whole, nothing = judge.problem_controls()
        assert judge.predicted_without_messages() == {}
    assert "predicted" not in row.per_graph
    assert not [name for name in row.figures if "_predicted_" in name]
    assert whole.figures["unchanged_zero"] == 1
    assert whole.figures["divergence_zero"] == 0
    assert nothing.figures["divergence_zero"] != 0
    before, after = (float(row.figures["metric_zero"] or 0) for row in (whole, nothing))
    assert nothing.figures["metric_fall"] == before - after


def test_classes_break_figures_down_for_one_logit_and_a_target_node() -> None:
    for output in (BinaryClassification(), NodeClassification()):
        built = problem(output)
        with Judge(built) as judge:
            row = judge.problem_controls()[0]
            shares = judge.predicted_without_messages()
        test = built.splits["test"]
        predicted = built.output.predict(built.model(test.graphs), test.graphs)
        assert row.per_graph["predicted"].tolist() == predicted.tolist()
        assert row.figures["unchanged_zero_predicted_0"] == 1
        assert sum(shares.values()) == pytest.approx(1)
