"""Removing each message of many graphs by itself: one in a pass, or several that reach no row of the output in common.

Where a model says something of every node, what a message does stays in its neighbourhood. Of two messages of a graph
that reach no row in common, both removed in one pass, each is judged by the rows that it reaches; all other rows are as
without it.

The rows that a message reaches are found by sending NaN in its place: what is computed from it is NaN, whatever the
weights and other messages are. Where something swallows it (``torch.where``, a comparison), a message moves rows that
it does not seem to reach: so each is removed alone once, and where one does that, or a NaN cannot be borne, there is
one message in a pass. So there is on a GPU, where an index that was computed from a NaN would end the process.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.output import Output

from ._subsets import Copies

MOVED = 1e-5
"""Part of an output, and of the median of its column, by which it has to move to be moved."""

ROUNDING = {"rtol": 1e-3, "atol": 1e-5}
"""How far D* of a row may be from what it was in another pass."""

MOST_CELLS = 10_000_000
"""Graphs times messages times rows for which it is known together which reach which."""


class Removal(ABC):
    """Removes each message of G graphs by itself.

    A message is named by its place among those of its graph, of which the largest graph has ``count``.

    Args:
        copies: of the graphs.
        places: ``(L, E)``.
    """

    def __init__(self, copies: Copies, places: Tensor) -> None:
        self.copies = copies
        self._places = places

    @abstractmethod
    def remove_each(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Remove each message that is left, by itself.

        Args:
            kept: bool ``(G, count)``.

        Returns:
            ``(G, count)`` each: whether all predictions stay, and D*; of messages that are not left they say nothing.
        """

    def drop(self, graphs: Tensor, places: Tensor) -> None:  # noqa: B027 - optional
        """Take note that of some graphs one message each is left out from now on."""

    def wasteful(self) -> bool:
        """Return whether passes have become much smaller than they were."""
        return False

    def agrees(self, kept: Tensor) -> bool:
        """Return whether what is left does what was expected of it."""
        return True

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model's output."""
        return self.copies.recording.logits.dtype

    def _current(self, kept: Tensor) -> Tensor:
        """Return the mask ``(L, E)`` of what is left."""
        return kept[self.copies.graphs.edge_graph, self._places]


class OneByOne(Removal):
    """Removes one message of every graph in a pass."""

    def remove_each(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Remove each message that is left, by itself."""
        edge_graph, current = self.copies.graphs.edge_graph, self._current(kept)
        order = (~kept).int().argsort(dim=1, stable=True)[:, : int(kept.sum(1).max())]  # those that are left come first
        unchanged = torch.zeros_like(kept)
        divergence = torch.zeros(kept.shape, dtype=self.dtype, device=kept.device)
        for some in order.split(self.copies.count, dim=1):
            stays, change = self.copies.evaluate(current & (self._places != some.T[:, edge_graph][:, None]))
            unchanged.scatter_(1, some, stays.T)
            divergence.scatter_(1, some, change.T.to(divergence.dtype))
        return unchanged, divergence


class Waves(Removal):
    """Removes messages that reach no row in common in one pass.

    Args:
        gates: the entered gates of the model.
        output: what its output means: something of every node.
        graphs: G graphs, whose outputs have R rows.
        places: ``(L, E)``.
        kept: bool ``(G, count)``, the messages that are there.
        reached: bool ``(G, count, N)``, from :func:`reached`.
    """

    def __init__(
        self, gates: Gates, output: Output, graphs: GraphBatch, places: Tensor, kept: Tensor, reached: Tensor
    ) -> None:
        reached = reached & kept[:, :, None]
        self._colours = colours = coloured(reached)
        self._passes = int(colours.max()) + 1
        copies = Copies(gates, output, graphs, self._passes)
        runs = math.ceil(self._passes / copies.count)
        if runs > 1:  # of equal length
            copies = Copies(gates, output, graphs, math.ceil(self._passes / runs))
        super().__init__(copies, places)
        self._owner = graphs.batch
        graph, place, row = reached.nonzero(as_tuple=True)
        # the message that a row is judged for in the pass of each colour, or one too many
        self._judged = torch.full((self._passes, graphs.num_nodes), colours.numel(), device=graphs.device)
        self._judged[colours[graph, place], graphs.node_ptr[graph] + row] = graph * colours.shape[1] + place
        self._now = self._with(kept)

    def remove_each(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Remove each message that is left, by itself."""
        graphs, colours, current = self.copies.graphs, self._colours, self._current(kept)
        left = torch.zeros(len(kept), len(self._judged), dtype=torch.bool, device=kept.device)
        graph, place = kept.nonzero(as_tuple=True)
        left[graph, colours[graph, place]] = True
        self._passes = int(left.sum(1).max())
        order = (~left).int().argsort(dim=1, stable=True)[:, : self._passes]  # (G, T)
        colour = colours[graphs.edge_graph, self._places]
        passes = [
            self._pass(current & (colour != some.T[:, graphs.edge_graph][:, None]))
            for some in order.split(self.copies.count, dim=1)
        ]
        self._after = torch.cat([x for x, _ in passes]), torch.cat([x for _, x in passes])  # (T, R)
        self._message = self._judged[order[self._owner].T, torch.arange(len(self._owner), device=kept.device)]  # (T, R)
        divergence, changed = (self._instead(*pair) for pair in zip(self._now, self._after, strict=True))
        return changed < 0.5, divergence / graphs.num_nodes_per_graph[:, None].clamp(min=1)

    def drop(self, graphs: Tensor, places: Tensor) -> None:
        """Take note that of some graphs one message each is left out from now on."""
        number = self._owner.new_full((len(self._colours),), -1)
        number[graphs] = graphs * self._colours.shape[1] + places
        hit = self._message == number[self._owner]  # (T, R), at most once a row
        moved, which = hit.any(0), hit.int().argmax(0)[None]
        divergence, changed = (x.gather(0, which)[0] for x in self._after)
        self._now = torch.where(moved, divergence, self._now[0]), torch.where(moved, changed, self._now[1])

    def wasteful(self) -> bool:
        """Return whether passes have become much smaller than they were."""
        return 2 * self._passes <= self.copies.count

    def agrees(self, kept: Tensor) -> bool:
        """Return whether every row is what it was in the pass that judged it last."""
        divergence, changed = self._with(kept)
        return torch.equal(changed, self._now[1]) and torch.allclose(
            divergence, self._now[0], ROUNDING["rtol"], ROUNDING["atol"]
        )

    def _with(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return D* ``(R,)`` and whether the prediction changes of every row, with all messages that are left."""
        divergence, changed = self._pass(self._current(kept)[None])
        return divergence[0], changed[0]

    def _pass(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return D* ``(T, R)`` float64 and whether the prediction changes of every row, under masks ``(T, L, E)``."""
        output = self.copies.output
        before, after = _rows(self.copies), _rows(self.copies, masks)
        divergence = output.row_divergence(before, after).double()
        changed = ~output.same(before, after)
        return divergence.view(-1, len(self._owner))[: len(masks)], changed.view(-1, len(self._owner))[: len(masks)]

    def _instead(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the sums of graphs ``(G, count)`` over ``before`` ``(R,)``, and ``after`` ``(T, R)`` where reached."""
        before, after = before.double(), after.double()
        zeros = before.new_zeros(self._colours.numel() + 1)
        sums = zeros.index_add(0, self._message.flatten(), (after - before).flatten())[:-1].view_as(self._colours)
        return before.new_zeros(len(self._colours)).index_add(0, self._owner, before)[:, None] + sums


@torch.no_grad()
def reached(gates: Gates, output: Output, graphs: GraphBatch, places: Tensor, count: int) -> Tensor | None:
    """Return bool ``(G, count, N)``: which of its graph's N rows a message reaches; None where there is one in a pass.

    Args:
        gates: the entered gates of the model.
        output: what its output means.
        graphs: G graphs.
        places: ``(L, E)``.
        count: of places.
    """
    widest = int(graphs.num_nodes_per_graph.max())
    few = widest < 2 or output.level == "graph"
    if few or graphs.device.type == "cuda" or graphs.num_graphs * count * widest > MOST_CELLS:
        return None
    copies = Copies(gates, output, graphs, count)
    found = torch.zeros(graphs.num_graphs, count, widest, dtype=torch.bool)
    inside = torch.arange(graphs.num_nodes) - graphs.node_ptr[graphs.batch]
    before = _rows(copies)[: graphs.num_nodes].reshape(graphs.num_nodes, -1)
    tolerance = MOVED * (before.abs() + before.abs().median(0).values)
    for numbers in torch.arange(count).split(copies.count):
        tried = places == numbers[:, None, None]  # (T, L, E)
        ones = torch.ones(tried.shape, dtype=before.dtype)
        try:
            under_nan = _rows(copies, ones.masked_fill(tried, torch.nan))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:
            return None  # the model expects no NaN
        under_zero = _rows(copies, ones.masked_fill(tried, 0.0))
        shape = (copies.count, *before.shape)
        tainted = under_nan.reshape(shape)[: len(numbers)].isnan().any(2)  # (T, R)
        stays = (under_zero.reshape(shape)[: len(numbers)] - before).abs() <= tolerance
        if not bool((tainted | stays.all(2)).all()):
            return None
        found[graphs.batch[None], numbers[:, None], inside[None]] = tainted
    return found


def coloured(reached: Tensor) -> Tensor:
    """Return ``(G, count)``: a colour of every message; two of a graph that reach a row in common have different ones.

    Each has the first that is free, in the order of places.

    Args:
        reached: ``(G, count, N)``.
    """
    num_graphs, count, widest = reached.shape
    colours = torch.zeros(num_graphs, count, dtype=torch.long, device=reached.device)
    taken = torch.zeros(num_graphs, 1, widest, dtype=torch.bool, device=reached.device)  # (G, C, N)
    each = torch.arange(num_graphs, device=reached.device)
    for place in range(count):
        rows = reached[:, place]
        clash = (taken & rows[:, None]).any(2)
        if bool(clash.all(1).any()):
            taken = torch.cat([taken, torch.zeros_like(taken[:, :1])], dim=1)
            clash = torch.cat([clash, torch.zeros_like(clash[:, :1])], dim=1)
        colours[:, place] = clash.int().argmin(1)
        taken[each, colours[:, place]] |= rows
    return colours


def _rows(copies: Copies, gates: Tensor | None = None) -> Tensor:
    """Return the rows of all copies, ``(copies R, ...)``: of the original output, or under gates ``(T, L, E)``."""
    recording = copies.recording
    if gates is None:
        return copies.output.select(recording.logits, recording.graphs)
    padded = torch.cat([gates, gates[:1].expand(copies.count - len(gates), -1, -1)]).transpose(0, 1).flatten(1)
    return copies.output.select(recording.forward(padded.to(recording.logits.dtype)), recording.graphs)
