"""Is the model as it was found? A fingerprint of everything that a method could have left behind."""

import hashlib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..base.seeds import generator
from .graphs import GraphBatch
from .model import GraphModel

_HOOKS = ("_hooks", "_pre_hooks")


def fingerprint(model: GraphModel, graphs: GraphBatch) -> dict[str, Any]:
    """Return hooks, parameters and buffers (hashed bit by bit), ``requires_grad``, modes, attributes and logits."""
    modules = dict(model.named_modules())
    with torch.no_grad(), evaluating(model):
        logits = model(graphs)
    return {
        "hooks": {name: _hooks(module) for name, module in modules.items()},
        "tensors": {name: tensor_digest(x) for name, x in [*model.named_parameters(), *model.named_buffers()]},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": {name: parameter.grad is None for name, parameter in model.named_parameters()},
        "training": {name: module.training for name, module in modules.items()},
        "attributes": {name: _attributes(module) for name, module in modules.items()},
        "logits": logits,
    }


class evaluating:  # noqa: N801 - a context manager, called like a function
    """Put a model into evaluation mode with frozen parameters, and every part of it back as it was.

    Which kernel PyTorch takes, and so the last bits of an output, may depend on both.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._training = {module: module.training for module in model.modules()}
        self._requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def __enter__(self) -> None:
        self._model.eval()
        for parameter, _ in self._requires_grad:
            parameter.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for module, mode in self._training.items():
            module.training = mode
        for parameter, required in self._requires_grad:
            parameter.requires_grad_(required)


def module_state(module: nn.Module) -> dict[tuple[str, str], Any]:
    """Return what a module and its children hold: tensors by identity and version, the rest by identity or value."""
    state: dict[tuple[str, str], tuple[Any, Any]] = {}
    for path, part in module.named_modules():
        held = {**vars(part), **part._parameters, **part._buffers}
        for name, value in held.items():
            if isinstance(value, Tensor):
                state[path, name] = (value, value._version)
            elif isinstance(value, list | tuple):
                state[path, name] = (value, [_Is(item) for item in value])
            elif isinstance(value, dict) and not name.startswith("_"):
                state[path, name] = (value, {key: _Is(item) for key, item in value.items()})
            else:
                state[path, name] = (value, None)
    return {key: (_Is(value), version) for key, (value, version) in state.items()}


class _Is:
    """Equal to what holds the very same object, which stays alive, or an equal plain value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Is):
            return NotImplemented
        mine, its = self.value, other.value
        return mine is its or (isinstance(mine, bool | int | float | str) and type(mine) is type(its) and mine == its)

    __hash__ = None  # type: ignore[assignment]


def graphs_digest(graphs: GraphBatch) -> str:
    """Return a hash of every tensor of a batch."""
    tensors = [graphs.edge_index, graphs.node_ptr, graphs.edge_ptr, graphs.graph_key, graphs.edge_key]
    for level in (graphs.node, graphs.edge, graphs.graph):
        tensors += [level[name] for name in sorted(level)]
    return hashlib.sha256("".join(map(tensor_digest, tensors)).encode()).hexdigest()


def model_digest(model: nn.Module) -> str:
    """Return a hash of what a model is beside its code: its modules, their plain attributes, parameters and buffers."""
    modules = [(path, type(part).__qualname__, _attributes(part)) for path, part in model.named_modules()]
    tensors = [(name, tensor_digest(tensor)) for name, tensor in [*model.named_parameters(), *model.named_buffers()]]
    parts = [*(f"{path} {kind} {sorted(plain.items(), key=str)}" for path, kind, plain in modules), *map(str, tensors)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def data_digest(splits: Iterable[tuple[GraphBatch, Tensor]]) -> str:
    """Return a hash of the graphs and labels of some splits."""
    parts = [graphs_digest(graphs) + tensor_digest(labels) for graphs, labels in splits]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:32]


def differences(before: dict[str, Any], after: dict[str, Any], tolerance: float = 0.0) -> list[str]:
    """Name what differs between two fingerprints; logits may differ by ``tolerance`` (0 on the CPU)."""
    found = [key for key in before if key != "logits" and before[key] != after[key]]
    a, b = before["logits"], after["logits"]
    if a.shape != b.shape or not torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
        found.append("logits")
    return found


def changed_by_a_pass(model: GraphModel, graphs: GraphBatch) -> str | None:
    """Return one of what every plain pass leaves otherwise than the one before, such as ``Net.calls``, or None."""
    before, after = fingerprint(model, graphs), fingerprint(model, graphs)
    for what in differences({**before, "logits": after["logits"]}, after):
        path = _first_difference(before[what], after[what])
        owner, _, name = path.rpartition(".")
        return f"{type(model.get_submodule(owner)).__name__}.{name}"
    return None


def _first_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the path of the first entry of nested mappings that differs."""
    key = next(key for key in (*before, *after) if before.get(key) != after.get(key))
    old, new = before.get(key), after.get(key)
    deeper = [_first_difference(old, new)] if isinstance(old, Mapping) and isinstance(new, Mapping) else []
    return ".".join(filter(None, (key, *deeper)))


def shuffled(model: GraphModel, seed: int) -> GraphModel:
    """Return a copy of a model with the entries of each parameter in random order: weights that learned nothing."""
    copy = deepcopy(model)
    draw = generator("shuffled", seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            order = torch.randperm(parameter.numel(), generator=draw).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return copy


def _hooks(module: nn.Module) -> dict[str, int]:
    return {name: len(value) for name, value in vars(module).items() if name.endswith(_HOOKS) and value is not None}


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the names of a module's attributes, with those values that are plain."""
    return {n: x if isinstance(x, bool | int | float | str | None) else type(x) for n, x in vars(module).items()}


def tensor_digest(tensor: Tensor) -> str:
    """Return a hash of a tensor's bytes."""
    data = tensor.detach().cpu().contiguous()
    return hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
