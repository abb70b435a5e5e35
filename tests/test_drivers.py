"""Which driver drives a layer, and a kind of layer that sends no messages: what it takes, and who is skipped."""

import sys
from typing import Any

import pytest
import torch
from docs_helpers import SAVED
from helpers import WIDTH, random_batch
from torch import Tensor, nn
from torch_geometric.nn import FastRGCNConv, GraphConv, MessagePassing, RGCNConv

from attribench.model.driver_list import DRIVERS, driver_of, layers_without_messages
from attribench.model.gates import Gates, UnsupportedModelError
from attribench.model.graphs import GraphBatch
from attribench.model.integrity import differences, fingerprint
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.model.pyg import PyGDriver
from attribench.model.relational import RelationalDriver
from attribench.plugins.configs import make_config
from attribench.plugins.method import Subject
from attribench.plugins.registry import METHODS
from attribench.plugins.task import SPLITS, Problem, Split


def example() -> tuple[Any, Any]:
    """Return the pages' layer without messages and its driver, as if they were defined here."""
    names: dict[str, Any] = {"__name__": __name__}
    before = list(DRIVERS)
    exec(compile(SAVED["matrix_layer.py"], "matrix_layer.py", "exec"), names)
    DRIVERS[:] = before
    return names["MatrixSum"], names["MatrixDriver"]


MatrixSum, MatrixDriver = example()


class SameSum(MessagePassing):
    """The same layer, with a message for every edge."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = self.propagate(edge_index, x=self.linear(h))
        return out

    def message(self, x_j: Tensor) -> Tensor:
        return x_j


class Model(GraphModel):
    """Two layers and a readout of every graph's sum."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([layer(WIDTH), layer(WIDTH)])
        self.readout = nn.Linear(WIDTH, 2)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = graphs["x"]
        for layer in self.layers:
            h = layer(h, graphs.edge_index).tanh()
        out: Tensor = self.readout(h.new_zeros(graphs.num_graphs, WIDTH).index_add(0, graphs.batch, h))
        return out


@pytest.fixture
def matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[driver_of.__module__], "DRIVERS", [(MatrixSum, MatrixDriver), *DRIVERS])


@pytest.fixture
def graphs() -> GraphBatch:
    return random_batch([(4, 5), (2, 1), (5, 6), (3, 0)]).to(torch.float64)


def subject(layer: type[nn.Module], graphs: GraphBatch) -> Subject:
    return Subject(Model(layer).double().eval(), GraphClassification(), graphs, graphs, 2)


def test_the_first_type_that_matches_drives_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert driver_of(RGCNConv(2, 2, 2)) is RelationalDriver
    assert driver_of(FastRGCNConv(2, 2, 2)) is PyGDriver  # which is an RGCNConv, too
    assert driver_of(GraphConv(2, 2)) is PyGDriver
    assert driver_of(nn.Linear(2, 2)) is None

    both = type("Both", (MatrixSum, SameSum), {})
    never = type("Never", (MatrixDriver,), {"fits": classmethod(lambda *_: False)})
    for entries, expected in (
        ([(MatrixSum, MatrixDriver), *DRIVERS], MatrixDriver),
        ([*DRIVERS, (MatrixSum, MatrixDriver)], PyGDriver),
        ([(MatrixSum, never), *DRIVERS], PyGDriver),
    ):
        monkeypatch.setattr(sys.modules[driver_of.__module__], "DRIVERS", entries)
        assert driver_of(both(WIDTH)) is expected


@pytest.mark.usefixtures("matrices")
def test_a_layer_without_messages_is_gated_as_one_that_has_them(graphs: GraphBatch) -> None:
    z = torch.rand(2, graphs.num_edges, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = []
    for layer in (MatrixSum, SameSum):
        model = Model(layer).double()
        before = fingerprint(model, graphs)
        with Gates(model) as gates:
            recording = gates.record(graphs)
            outputs.append(recording.forward(z))
            outputs.append(recording.forward(z, [torch.ones(WIDTH).double(), torch.ones(4, 1).double()]))
            call = recording.calls[0]
        assert call.width == WIDTH
        assert call.inputs().shape[1] == (2 if layer is MatrixSum else 3) * WIDTH
        linear = torch.nn.Linear(call.inputs().shape[1], 4).double()
        torch.testing.assert_close(
            call.project(linear.weight, linear.bias), linear(call.inputs()), rtol=1e-12, atol=1e-12
        )
        assert differences(before, fingerprint(model, graphs)) == []
        if layer is MatrixSum:
            with pytest.raises(UnsupportedModelError, match="needs_messages = True"):
                call.flat_messages()
    torch.testing.assert_close(outputs[:2], outputs[2:], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("matrices")
@pytest.mark.parametrize("name", [*METHODS])
def test_methods_say_whether_they_read_messages(name: str, graphs: GraphBatch) -> None:
    method, found = METHODS[name], []
    assert layers_without_messages(subject(SameSum, graphs).model) == []
    assert layers_without_messages(subject(MatrixSum, graphs).model) == ["MatrixSum"]
    for layer in (MatrixSum, SameSum):
        explained = subject(layer, graphs)
        reason = method.reason_against(explained)
        if layer is MatrixSum and (method.needs_messages or name == "information-bottleneck"):
            assert reason is not None
            assert "MatrixSum sends no message as a vector" in reason
            return
        if reason is not None:
            assert name == "gate-values"
            return
        one = method(make_config(name, method.Config, method.quick), subject=explained)
        one.fit()
        found.append(one.attribute(graphs).scores)
    if name != "graphmask":  # whose gates read the messages where there are any
        torch.testing.assert_close(*found, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("matrices")
def test_a_model_of_such_layers_is_found_sound() -> None:
    splits = {name: Split(random_batch([(4, 6)] * 10, i), torch.arange(10) % 2) for i, name in enumerate(SPLITS)}
    assert Problem(Model(MatrixSum), GraphClassification(), splits).findings.num_layers == 2
