"""Every registered method and task keeps the contract, and the contract notices those that do not."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from attribench.checking.methods import SUBJECTS, MethodContract
from attribench.checking.tasks import Check, TaskContract
from attribench.model.graphs import GraphBatch
from attribench.plugins.method import Attribution, Method
from attribench.plugins.registry import METHODS, TASKS


def _cases() -> Iterator[Any]:
    for name in METHODS:
        for depth, form in SUBJECTS:
            for title, check in MethodContract(METHODS[name], depth, form).checks():
                yield pytest.param(check, id=f"{name}-{depth}-{form}-{title}")
    for name in TASKS:
        for title, check in TaskContract(TASKS[name]).checks():
            yield pytest.param(check, id=f"{name}-{title}")
    for title, check in TaskContract(TASKS["qa"], form="list").checks():  # its default is a model of matrices
        yield pytest.param(check, id=f"qa-list-{title}")


@pytest.mark.parametrize("check", list(_cases()))
def test_plugin_keeps_the_contract(check: Check) -> None:
    assert check() is None


class _Broken(Method):
    """A method that breaks the contract in the way that its subclasses say."""

    name = "broken"

    def attribute(self, graphs: GraphBatch) -> Attribution:
        return Attribution(torch.zeros(self.subject.num_layers, graphs.num_edges).double())


class _DependsOnBatch(_Broken):
    def attribute(self, graphs: GraphBatch) -> Attribution:
        scores = torch.full((self.subject.num_layers, graphs.num_edges), 1 / graphs.num_graphs).double()
        return Attribution(scores)


class _DependsOnOrder(_Broken):
    def attribute(self, graphs: GraphBatch) -> Attribution:
        position = torch.arange(graphs.num_edges) - graphs.edge_ptr[graphs.edge_graph]
        return Attribution(position.double().expand(self.subject.num_layers, -1) / 100)


class _DependsOnGlobalState(_Broken):
    def attribute(self, graphs: GraphBatch) -> Attribution:
        return Attribution(torch.rand(self.subject.num_layers, graphs.num_edges).double())


class _WrongShape(_Broken):
    def attribute(self, graphs: GraphBatch) -> Attribution:
        return Attribution(torch.zeros(1, graphs.num_edges + 1).double())


class _LeavesHook(_Broken):
    def attribute(self, graphs: GraphBatch) -> Attribution:
        self.subject.model.register_forward_hook(lambda *_: None)
        return super().attribute(graphs)


class _ChangesModelOnError(_Broken):
    def attribute(self, graphs: GraphBatch) -> Attribution:
        model = self.subject.model
        model.requires_grad_(False)
        model(graphs)
        model.requires_grad_(True)
        return super().attribute(graphs)


class _SwallowsErrors(_Broken):
    def attribute(self, graphs: GraphBatch) -> Attribution:
        with contextlib.suppress(RuntimeError):
            self.subject.model(graphs)
        return super().attribute(graphs)


@pytest.mark.parametrize(
    ("method", "check"),
    [
        (_DependsOnBatch, "batch_invariance"),
        (_DependsOnOrder, "edge_order"),
        (_DependsOnGlobalState, "determinism"),
        (_LeavesHook, "left_as_found"),
        (_ChangesModelOnError, "left_as_found_after_error"),
        (_SwallowsErrors, "left_as_found_after_error"),
    ],
)
def test_contract_notices(method: type[Method], check: str) -> None:
    assert getattr(MethodContract(method, 1), check)() is not None
    if method is not _LeavesHook:
        assert MethodContract(_Broken, 1).left_as_found() is None


def test_contract_notices_wrong_shape() -> None:
    with pytest.raises(ValueError, match="expected scores of shape"):
        MethodContract(_WrongShape, 1).shapes()
