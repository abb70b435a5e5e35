"""What is out of the gates' reach: layers that are none of the model's, and messages that no layer sends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch_geometric.nn import MessagePassing

from .graphs import LEVELS, GraphBatch
from .model import GraphModel

_SUMS = {
    "index_add", "index_add_", "index_reduce", "index_reduce_", "index_put", "index_put_", "__setitem__",
    "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_",
}  # fmt: skip
"""Functions that put values where an index says."""

_PRODUCTS = {"mm", "matmul", "__matmul__", "__rmatmul__", "addmm", "sspaddmm", "mv", "smm", "hspmm"}
"""Functions that sum over neighbours where one side is a sparse matrix."""


def find_stray(model: GraphModel, batches: Iterable[GraphBatch]) -> str | None:
    """Return what is wrong with the messages of some passes, in one line with the remedy, or None.

    A layer that runs without being a submodule is out of reach, however it is called, and so is a sum over edges
    outside the layers: of anything that comes from node features or weights, by an end of the edges or with a sparse
    matrix. What C++ extensions sum is not seen, nor what a model sums after it has put the edges in another order.
    """
    name = type(model).__name__
    for graphs in batches:
        counts = []
        for _ in range(2):
            before = [list(getattr(graphs, level)) for level in LEVELS]
            watched = _watched_pass(model, graphs)
            if before != [list(getattr(graphs, level)) for level in LEVELS]:
                return (
                    f"expected a model that leaves the graphs as they are; {name} adds to their tensors: keep it in "
                    "variables"
                )
            reason = _outside(model, watched.modules) or watched.by_hand
            if reason is not None:
                return reason
            counts.append(watched.calls)
        if counts[0] != counts[1]:
            return (
                f"expected as many message-passing calls in every pass; {name} made {counts[0]} and then {counts[1]} "
                "for the same graphs: keep nothing from pass to pass"
            )
    return None


def _watched_pass(model: GraphModel, graphs: GraphBatch) -> _Watched:
    """Run a pass in which whatever comes from node features or weights can be told by its gradient."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    kept = dict(graphs.node)
    for parameter in frozen:
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad():
            graphs.node.update({name: _with_gradient(x) for name, x in kept.items()})
            with _Watched(graphs) as watched:
                model(graphs)
    finally:
        graphs.node.update(kept)
        for parameter in frozen:
            parameter.requires_grad_(False)
    return watched


def _with_gradient(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_().clone() if x.is_floating_point() else x


def _outside(model: nn.Module, modules: Iterable[nn.Module]) -> str | None:
    """Return which of the modules that ran is none of the model's."""
    known = set(map(id, model.modules()))
    for module in modules:
        if id(module) not in known and (isinstance(module, MessagePassing) or any(True for _ in module.parameters())):
            return (
                f"expected all layers as submodules of the model; {type(module).__name__} runs and is none, so that "
                "its messages and weights are out of reach: put lists of layers into torch.nn.ModuleList"
            )
    return None


class _Watched(TorchFunctionMode):
    """Notes which modules run in a pass, and what is summed over edges outside the layers."""

    def __init__(self, graphs: GraphBatch) -> None:
        super().__init__()
        self.modules: dict[nn.Module, None] = {}
        #: Calls of message-passing layers.
        self.calls = 0
        #: What was summed outside them, in one line.
        self.by_hand: str | None = None
        self._ends = [end for end in graphs.edge_index if len(end) and not torch.equal(end, graphs.edge_graph)]

    def __enter__(self) -> _Watched:
        self._handle = register_module_forward_pre_hook(self._entered)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._handle.remove()

    def _entered(self, module: nn.Module, _: Any) -> None:
        self.modules[module] = None
        self.calls += isinstance(module, MessagePassing)
        layer = _layer_around()  # which may run by propagate() or forward() alone
        if layer is not None:
            self.modules[layer] = None

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, and note it where it sums over edges."""
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if self.by_hand is None and name in _SUMS | _PRODUCTS and self._sums(name, args, kwargs or {}, result):
            layer = _layer_around()
            if layer is None:
                self.by_hand = (
                    f"expected messages to be sent by PyG layers alone; the model calls {name}() over edges outside "
                    "of any, which no gate reaches: put it into a MessagePassing layer (SimpleConv sums neighbours)"
                )
            else:
                self.modules[layer] = None
        return result

    def _sums(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> bool:
        tensors = list(_tensors([*args, *kwargs.values()]))
        if not any(x.requires_grad for x in (*tensors, *_tensors([result]))):
            return False
        if name in _PRODUCTS:
            return any(x.layout != torch.strided for x in tensors)
        return any(self._is_end(x) for x in tensors)

    def _is_end(self, index: Tensor) -> bool:
        """Say whether an index ``(E,)``, or one expanded from it, starts with an end of the edges."""
        if index.dtype not in (torch.int64, torch.int32) or not index.dim() or not index.numel():
            return False
        for dim in range(index.dim()):
            column = index[tuple(slice(None) if d == dim else 0 for d in range(index.dim()))]
            for end in self._ends:
                if len(column) >= len(end) and torch.equal(column[: len(end)].long(), end):
                    return True
        return False


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _layer_around() -> MessagePassing | None:
    """Return the message-passing layer whose method runs, by the calls that led here."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(layer := frame.f_locals.get("self"), MessagePassing):
            return layer
        frame = frame.f_back
    return None
