"""Which layers do gates and gradients reach, and may the first messages be taken from a recording?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch_geometric.nn import MessagePassing

from ..base.seeds import generator
from ..model.gates import Gates, Recording
from ..model.graphs import GraphBatch
from ..model.integrity import module_state
from .outputs import check_closed
from .plain_passes import same

if TYPE_CHECKING:
    from ..plugins.task import Problem


LEVELS_TRIED = (1.0, 0.5, 0.1, 0.01)
"""Values of all gates at which a gradient is looked for."""


def reach(problem: Problem, gates: Gates, samples: dict[str, GraphBatch]) -> tuple[list[int], list[int]]:
    """Return the layers whose gates change no output, and those whose gates do though no gradient reaches them."""
    changes: set[int] = set()
    gradients: set[int] = set()
    for name, graphs in samples.items():
        recording = gates.record(graphs)
        layers = range(recording.num_layers)
        for k in layers:
            closed = recording.ones()
            closed[k] = 0
            with torch.no_grad():
                if not same(recording.forward(closed), recording.logits):
                    changes.add(k)
        with torch.no_grad():
            check_closed(problem.output, name, recording.logits, recording.forward(recording.ones() * 0), graphs)
        gradients |= _layers_with_gradient(recording)
    return sorted(set(layers) - changes - gradients), sorted(changes - gradients)


def _layers_with_gradient(recording: Recording) -> set[int]:
    """Return the layers whose gates get a gradient somewhere: where all are open a sound model may be saturated."""
    draw = generator("examination", "reach")
    weights = torch.rand(recording.logits.shape, generator=draw, dtype=torch.float64).to(recording.logits)
    reached: set[int] = set()
    for level in LEVELS_TRIED:
        z = [row.requires_grad_() for row in (recording.ones() * level).unbind()]
        logits = recording.forward(z)
        if not logits.requires_grad:
            continue
        found = torch.autograd.grad((logits * weights).sum(), z, allow_unused=True)
        reached |= {k for k, gradient in enumerate(found) if gradient is not None and bool((gradient != 0).any())}
    return reached


def may_replay(model: Any, samples: dict[str, GraphBatch]) -> bool:
    """Say whether the first call's ``message()`` can be left out: it leaves nothing behind, and no output changes."""
    with Gates(model) as gates, torch.no_grad(), _watched_messages(gates) as leaves_something:
        for name in ("test", "validation"):
            gates.record(samples[name])
        if leaves_something:
            return False
    with Gates(model, replay=True) as gates, torch.no_grad():
        recordings = [gates.record(samples[name]) for name in ("test", "validation")]
        return all(same(recording.forward(recording.ones()), recording.logits) for recording in recordings)


@contextmanager
def _watched_messages(gates: Gates) -> Iterator[list[str]]:
    """Note the layers that are not what they were, their children included, after their ``message()``."""
    found: list[str] = []
    before: dict[nn.Module, Any] = {}
    handles = []
    for layer in (layer for layer in gates.layers if isinstance(layer, MessagePassing)):
        handles += [
            layer.register_message_forward_pre_hook(lambda m, _: before.update({m: module_state(m)})),
            layer.register_message_forward_hook(
                lambda m, *_: found.append(type(m).__name__) if module_state(m) != before.pop(m) else None
            ),
        ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
