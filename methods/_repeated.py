"""Recordings of the same batches, walked through again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attribench.base.limits import MAX_EDGES
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.isolation import tensors
from attribench.model.recording import Recording

KEPT_BYTES = 2**30
"""Of recordings that are kept, with passes of the default size; the others are made anew every time."""


def kept_bytes(max_edges: int) -> int:
    """Return how many bytes of recordings are kept: the fewer edges a pass may hold, the less memory there is."""
    return KEPT_BYTES * min(max_edges, MAX_EDGES) // MAX_EDGES


class Repeated:
    """Recordings of batches, made once where memory allows: what they hold does not depend on any gate.

    Args:
        gates: the entered gates of the model.
        batches: returns the batches, the same ones every time.
        most_bytes: of the recordings that are kept.
    """

    def __init__(self, gates: Gates, batches: Callable[[], Iterator[GraphBatch]], most_bytes: int) -> None:
        self._gates = gates
        self._batches = batches
        self._left = most_bytes
        self._kept: list[Recording] = []

    def __iter__(self) -> Iterator[Recording]:
        for number, batch in enumerate(self._batches()):
            if number < len(self._kept):
                yield self._kept[number]
                continue
            recording = self._gates.record(batch)
            size = sum(x.nbytes for x in tensors((recording.state, recording.logits, recording.calls)))
            if number == len(self._kept) and size <= self._left:
                self._kept.append(recording)
                self._left -= size
            yield recording
