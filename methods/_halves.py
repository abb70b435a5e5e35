"""Removing messages by halves: where there are too many to remove one at a time, as in delta debugging.

A *round* measures the graph: each message that is left is removed on its own. Those that may go are queued, the least
D* first. The first half of the queue is removed at once if it may go together, else the first quarter, and so on down
to one message (after ddmin, Zeller & Hildebrandt 2002, which knows no order and halves all that is left). After that
the next round begins; or, where evaluations are few, the rest of the queue is tried first, in groups no larger than the
last that was tried, and a single message that may not go is passed over. It ends when a round finds that none may go:
what is left is 1-minimal. A graph that cannot be measured once more is left unfinished.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.output import Output

from ._subsets import Copies
from ._waves import OneByOne

RESERVE = 8
"""A graph is measured anew after every removal while it has this many evaluations for each message that is left. Its
messages are then ranked as they are now, but each round removes few where they make up for each other. What is reserved
is enough for four rounds in which all of the queue is tried."""

LEVELS = 16
"""Levels of D* for each doubling: messages of one level are queued by their place."""


def one_at_a_time(messages: Tensor) -> Tensor:
    """Return how many evaluations it takes at most to remove so many messages one at a time, each by trying all."""
    return messages * (messages + 1) // 2


@dataclass
class Erased:
    """What has become of the messages of G graphs, by their places, of which the largest graph has ``count``.

    Args:
        kept: bool ``(G, count)``, what is left.
        dropped_in: ``(G, count)``, the turn in which a message was dropped, from 1; 0 where it was not. The messages of
            a group take a turn each.
    """

    kept: Tensor
    dropped_in: Tensor

    @staticmethod
    def nothing(messages: Tensor) -> Erased:
        """Return that all ``messages`` ``(G,)`` of each graph are left."""
        kept = torch.arange(int(messages.max()), device=messages.device) < messages[:, None]
        return Erased(kept, torch.zeros(kept.shape, device=messages.device))

    @property
    def turns(self) -> Tensor:
        """``(G,)``: how many messages were dropped."""
        return (self.dropped_in > 0).sum(1)

    def select(self, index: Tensor) -> Erased:
        """Return a copy of what has become of the graphs ``index``."""
        return Erased(self.kept[index], self.dropped_in[index])

    def put(self, index: Tensor, other: Erased) -> None:
        """Take over what has become of the graphs ``index``."""
        self.kept[index], self.dropped_in[index] = other.kept, other.dropped_in

    def drop(self, index: Tensor, group: Tensor, order: Tensor) -> None:
        """Drop ``group`` ``(g, count)`` bool of each of the graphs ``index``, its messages in ``order``, from 0."""
        turn = self.turns[index, None] + order + 1
        self.dropped_in[index] = torch.where(group, turn.to(self.dropped_in.dtype), self.dropped_in[index])
        self.kept[index] = self.kept[index] & ~group


@dataclass
class Queue:
    """The messages of g graphs that may go, the least harmful first.

    Args:
        graphs: ``(g,)``, which graphs.
        place: ``(g, count)``, where each place stands in the queue.
        length: ``(g,)``, of the queue; what stands behind it may not go.
    """

    graphs: Tensor
    place: Tensor
    length: Tensor


class Halves:
    """Removes messages of G graphs by halves, until what is left may be removed one at a time.

    Each graph is judged by itself: what it is given and what it comes to depend on no other graph.

    Args:
        gates: the entered gates of the model.
        output: what its output means.
        graphs: G graphs.
        places: ``(L, E)``, each message's place among those of its graph.
        most: the largest D* that is allowed.
        erased: what has become of the messages; it is kept up to date.
        given: ``(G,)`` int64, the evaluations of each graph.
    """

    def __init__(
        self,
        gates: Gates,
        output: Output,
        graphs: GraphBatch,
        places: Tensor,
        most: float,
        erased: Erased,
        given: Tensor,
    ) -> None:
        self._gates, self._output, self._graphs, self._places, self._most = gates, output, graphs, places, most
        self._erased = erased
        #: ``(G,)``: the evaluations that are left.
        self.left = given.clone()
        #: bool ``(G,)``: it was measured that no message that is left may go.
        self.minimal = torch.zeros_like(given, dtype=torch.bool)

    @property
    def remaining(self) -> Tensor:
        """``(G,)``: how many messages are left."""
        return self._erased.kept.sum(1)

    @property
    def few(self) -> Tensor:
        """Bool ``(G,)``: what is left of the evaluations is enough to go on one message at a time."""
        return one_at_a_time(self.remaining) <= self.left

    def run(self) -> None:
        """Remove messages of each graph until they are few, none may go, or it cannot be measured once more."""
        while True:
            going = ~self.minimal & ~self.few & (self.remaining <= self.left)
            if not bool(going.any()):
                return
            self._walk(self._measure(going.nonzero()[:, 0]))

    def _measure(self, index: Tensor) -> Queue:
        """Remove each message of the graphs ``index`` on its own; queue those that may go."""
        kept, remaining = self._erased.kept[index], self.remaining[index]
        graphs, places = self._graphs.select(index), self._places[:, self._graphs.edges_of(index)]
        removal = OneByOne(Copies(self._gates, self._output, graphs, int(remaining.max())), places)
        unchanged, divergence = removal.remove_each(kept)
        self.left[index] -= remaining
        may_go = unchanged & (divergence <= self._most) & divergence.isfinite() & kept
        self.minimal[index] = ~may_go.any(1)
        order = torch.where(may_go, level(divergence), torch.inf).argsort(dim=1, stable=True)
        return Queue(index, order.argsort(dim=1), may_go.sum(1))

    def _walk(self, queue: Queue) -> None:
        """Remove groups of the queue, from its front, until it is through or its graph is measured anew."""
        start, size = torch.zeros_like(queue.length), (queue.length + 1) // 2
        # Rows of the queue; those that are through are left out of the copies once they are half of them.
        members = walking = ((queue.length > 0) & (self.left[queue.graphs] > 0)).nonzero()[:, 0]
        copies: Copies | None = None
        while len(walking):
            if copies is None or 2 * len(walking) <= len(members):
                members = walking
                copies = Copies(self._gates, self._output, self._graphs.select(queue.graphs[members]), 1)
            place = queue.place[members]
            group = (place >= start[members, None]) & (place < (start + size)[members, None])
            index, removed = queue.graphs[walking], torch.isin(members, walking)
            may_go = self._may_go(copies, queue.graphs[members], group)[removed]
            self.left[index] -= 1
            self._erased.drop(index[may_go], group[removed][may_go], (place - start[members, None])[removed][may_go])
            single = size[walking] == 1  # which, where it may not go, is passed over
            start[walking] += torch.where(may_go | single, size[walking], 0)
            half = (queue.length - start + 1) // 2
            size[walking] = torch.where(may_go | single, torch.minimum(size, half)[walking], size[walking] // 2)
            anew = may_go & (self.few[index] | (RESERVE * self.remaining[index] <= self.left[index]))
            walking = walking[~anew & (size[walking] > 0) & (self.left[index] > 0)]

    def _may_go(self, copies: Copies, index: Tensor, group: Tensor) -> Tensor:
        """Return ``(g,)``: whether of each of the graphs ``index`` all of ``group`` ``(g, count)`` may go at once."""
        places = self._places[:, self._graphs.edges_of(index)]
        mask = (self._erased.kept[index] & ~group)[copies.graphs.edge_graph, places]
        unchanged, divergence = copies.evaluate(mask[None])
        return (unchanged & (divergence <= self._most) & divergence.isfinite())[0]


def level(divergence: Tensor) -> Tensor:
    """Return the level of each D*: equal messages, whose D* differ in their last bits with the batch, share one.

    Levels are logarithmic, and of D* that are not much more than rounding errors even.
    """
    unit = 256 * torch.finfo(divergence.dtype).eps
    return (LEVELS * (1 + divergence.clamp(min=0) / unit).log2()).floor()
