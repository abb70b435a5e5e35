"""The unmasked pass and the gated passes that start from it: Equation 3, ``Recording`` and ``Stream``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .baseline import Baseline, as_baselines
from .call import Call
from .driver import Pass
from .graphs import GraphBatch, Part
from .isolation import copied
from .refusals import UnsupportedModelError

if TYPE_CHECKING:
    from .gates import Gates

Gate = Tensor | Sequence[Tensor | None]

CACHED_EDGES = 8000
"""Edges of a part on a CPU: what a pass over more makes outgrows the caches, and takes up to twice as long. It is the
vectors that grow so; where layers send none, small parts are dominated by what each pass costs whatever its size."""


def kept(z: Tensor, messages: Tensor) -> Tensor:
    """Return z * m of Eq. 3 for gates ``(E,)`` and messages ``(E, ...)``."""
    return z.reshape(-1, *(1 for _ in messages.shape[1:])) * messages


def filled(z: Tensor, baseline: Tensor, shape: Sequence[int]) -> Tensor:
    """Return (1 - z) * b of Eq. 3, ``(E, *shape)`` or what broadcasts to it where a baseline is one scalar.

    Args:
        z: ``(E,)``.
        baseline: as :meth:`.Baseline.spread` returns it, ``(1, D)`` or ``(E, D)``; D may be 1, one scalar for all
            values of a message.
        shape: of one message.
    """
    narrow = [1 for _ in shape]
    b = baseline.reshape(-1, *(narrow if baseline.shape[1] == 1 else shape))
    return (1 - z.reshape(-1, *narrow)) * b


@dataclass(frozen=True, eq=False)
class Recording:
    """The unmasked pass over a batch, from which gated passes start.

    Args:
        logits: the original model's output.
        calls: what each of the L layers read and sent.
        own_gates: ``(L, E)``, the values of the model's own gates; None where it has none.
        changed: what the model changes in place after it was recorded, of which gated passes get copies.
    """

    gates: Gates
    graphs: GraphBatch
    state: Any
    logits: Tensor
    calls: tuple[Call, ...]
    own_gates: Tensor | None = None
    changed: frozenset[str] = frozenset()

    def messages(self, k: int) -> Tensor:
        """Return the messages of layer ``k`` for a pass to use, which may change them in place."""
        messages = self.calls[k].messages
        return messages.clone() if f"messages of call {k}" in self.changed else messages

    @property
    def num_layers(self) -> int:
        """L: how often one forward pass passes messages over all edges."""
        return len(self.calls)

    def ones(self) -> Tensor:
        """Return open gates ``(L, E)``."""
        return self.logits.new_ones(self.num_layers, self.graphs.num_edges)

    def forward(self, gates: Gate, baselines: Sequence[Tensor | Baseline] | None = None) -> Tensor:
        """Run the gated pass and return its output.

        Args:
            gates: ``(L, E)``, or one ``(E,)`` tensor per layer, None where all are open.
            baselines: b of Eq. 3 per layer, or a tensor in its place: ``(D,)``, shared, or ``(G, D)``, per graph; D may
                be 1; zero where None.
        """
        for name, given in (("gates", gates), ("baselines", baselines)):
            if given is not None and len(given) != self.num_layers:
                raise ValueError(f"expected {name} for {self.num_layers} calls; got {len(given)}")
        current = Pass(self.graphs, self, gates, as_baselines(baselines))
        logits = self.gates._run(current, copied(self.state) if "state" in self.changed else self.state)
        if current.index != self.num_layers:
            raise UnsupportedModelError(
                f"expected {self.num_layers} message-passing calls as in the unmasked pass; got {current.index}"
            )
        return logits

    def gating(
        self, k: int, gates: Gate | None, baselines: Sequence[Baseline] | None
    ) -> tuple[Tensor | None, Baseline | None]:
        """Return z ``(E,)`` and b of layer ``k``; None for open gates and zero baselines."""
        z = None if gates is None else gates[k]
        if z is not None and z.shape != (self.graphs.num_edges,):
            raise ValueError(f"expected {self.graphs.num_edges} gates for call {k}; got {tuple(z.shape)}")
        if baselines is None or z is None:
            return z, None
        baselines[k].check(self.graphs, self.calls[k].width, f"a baseline for call {k}")
        return z, baselines[k]

    def closing(
        self, k: int, gates: Gate | None, baselines: Sequence[Baseline] | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the same with b of every message, ``(1, D)`` or ``(E, D)``."""
        z, b = self.gating(k, gates, baselines)
        return z, None if b is None else b.spread(self.graphs)

    def gate(self, k: int, messages: Tensor, gates: Gate | None, baselines: Sequence[Baseline] | None) -> Tensor:
        """Apply Eq. 3 to the messages of layer ``k``; self-loops that the layer appended stay open."""
        z, b = self.closing(k, gates, baselines)
        if z is None:
            return messages
        num_edges, expected = self.graphs.num_edges, len(self.calls[k].messages)
        if len(messages) != expected:
            raise ValueError(f"expected {expected} messages in call {k} as in the unmasked pass; got {len(messages)}")
        gated = kept(z, messages[:num_edges])
        if b is not None:
            gated = gated + filled(z, b, messages.shape[1:])
        return gated if len(messages) == num_edges else torch.cat([gated, messages[num_edges:]])


class Stream:
    """Passes over a batch of any size, a part at a time, so that memory does not grow with the batch.

    A batch that a pass may hold is recorded once; the parts of a larger one are recorded anew for every pass.

    Args:
        gates: the entered gates of the model.
        graphs: the batch.
        max_edges: the most edges in a part; a graph that has more is a part by itself.
    """

    def __init__(self, gates: Gates, graphs: GraphBatch, max_edges: int) -> None:
        self.graphs = graphs
        self._gates = gates
        most = min(max_edges, CACHED_EDGES) if graphs.device.type == "cpu" and gates.send_vectors else max_edges
        self._parts = list(graphs.parts(most))
        held = graphs.num_edges <= max_edges or len(self._parts) == 1
        logits: list[Tensor] = []
        recordings: list[Recording] = []
        for part in self._parts:
            recording = gates.record(part.batch)
            logits.append(recording.logits)
            if held:
                recordings.append(recording)
        self._held = recordings if held else None
        self.num_layers = recording.num_layers
        #: The original model's output over the whole batch.
        self.logits = torch.cat(logits)

    def recordings(self) -> Iterator[tuple[Part, Recording]]:
        """Yield every part with its unmasked pass."""
        for k, part in enumerate(self._parts):
            yield part, self._gates.record(part.batch) if self._held is None else self._held[k]

    def ones(self) -> Tensor:
        """Return open gates ``(L, E)``."""
        return self.logits.new_ones(self.num_layers, self.graphs.num_edges)
