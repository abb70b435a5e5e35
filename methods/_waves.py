"""Which messages can be removed in one pass, each by itself: those that reach no row of the output in common.

Where a model says something of every node, what a message does stays in its neighbourhood. Of two messages of a graph
that reach no row in common, both removed in one pass, each is judged by the rows that it reaches; all other rows are as
without it.

The rows that a message reaches are found by sending NaN in its place: what is computed from it is NaN, whatever the
weights and other messages are. Where something swallows it (``torch.where``, ``nan_to_num``), a message moves rows that
it does not seem to reach: so each is removed alone once, and where that happens, each counts as reaching every row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.output import Output

from ._subsets import Copies

MOVED = 1e-5
"""Part of the largest output by which a row has to move to be moved: sums that are not ordered move it by less."""


class Waves:
    """All messages of some graphs removed one at a time, in few passes.

    A message is named by its place among those of its graph, of which the largest graph has ``count``. ``passes`` is
    how many the last round took.

    Args:
        gates: the entered gates of the model.
        output: what its output means.
        graphs: G graphs, whose outputs have R rows.
        places: ``(L, E)``.
        kept: bool ``(G, count)``, the messages that are there.
        reached: bool ``(G, count, N)``, from :func:`reached`.
    """

    def __init__(
        self, gates: Gates, output: Output, graphs: GraphBatch, places: Tensor, kept: Tensor, reached: Tensor
    ) -> None:
        self._places = places
        self._colours = colours = coloured(reached & kept[:, :, None])
        self.passes = int(colours.max()) + 1
        self.copies = Copies(gates, output, graphs, self.passes)
        runs = math.ceil(self.passes / self.copies.count)
        if runs > 1:  # of equal length
            self.copies = Copies(gates, output, graphs, math.ceil(self.passes / runs))
        start = row_starts(output, graphs)
        self._sizes = start.diff().clamp(min=1)
        self._owner = _owners(start)
        graph, place, row = (reached & kept[:, :, None]).nonzero(as_tuple=True)
        # the message that a row is judged for in the pass of each colour, or one too many
        self._judged = torch.full((self.passes, int(start[-1])), colours.numel(), device=graphs.device)
        self._judged[colours[graph, place], start[graph] + row] = graph * colours.shape[1] + place
        divergence, changed = self._pass(kept[graphs.edge_graph, places][None])
        self._now = divergence[0], changed[0]  # with all messages that are left

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model's output."""
        return self.copies.recording.logits.dtype

    def _pass(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return D* ``(T, R)`` float64 and whether the prediction changes of every row, under masks ``(T, L, E)``."""
        output = self.copies.output
        before, after = _rows(self.copies, None), _rows(self.copies, masks)
        divergence = output.row_divergence(before, after).double()
        changed = ~output.same(before, after)
        return divergence.view(-1, len(self._owner))[: len(masks)], changed.view(-1, len(self._owner))[: len(masks)]

    def remove_each(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Remove each message that is left, by itself.

        Args:
            kept: bool ``(G, count)``.

        Returns:
            ``(G, count)`` each: whether all predictions stay, and D*; of messages that are not left they say nothing.
        """
        graphs, colours = self.copies.graphs, self._colours
        left = torch.zeros(len(kept), len(self._judged), dtype=torch.bool, device=kept.device)
        graph, place = kept.nonzero(as_tuple=True)
        left[graph, colours[graph, place]] = True
        self.passes = int(left.sum(1).max())
        order = (~left).int().argsort(dim=1, stable=True)[:, : self.passes]  # (G, T)
        current, colour = kept[graphs.edge_graph, self._places], colours[graphs.edge_graph, self._places]
        passes = [
            self._pass(current & (colour != some.T[:, graphs.edge_graph][:, None]))
            for some in order.split(self.copies.count, dim=1)
        ]
        self._divergence, self._changed = (torch.cat(part) for part in zip(*passes, strict=True))  # (T, R)
        rows = torch.arange(len(self._owner), device=kept.device)
        self._message = self._judged[order[self._owner].T, rows]  # (T, R)
        divergence, changed = (
            self._instead(before, after.double())
            for before, after in zip(self._now, (self._divergence, self._changed), strict=True)
        )
        if self.copies.output.level == "node":
            divergence = divergence / self._sizes[:, None]
        return changed < 0.5, divergence

    def _instead(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the sums of graphs ``(G, count)`` over ``before`` ``(R,)``, and ``after`` ``(T, R)`` where reached."""
        difference, zeros = (after - before.double()).flatten(), after.new_zeros(self._colours.numel() + 1)
        total = after.new_zeros(len(self._colours)).index_add(0, self._owner, before.double())
        return total[:, None] + zeros.index_add(0, self._message.flatten(), difference)[:-1].view_as(self._colours)

    def drop(self, graphs: Tensor, places: Tensor) -> None:
        """Take note that of some graphs one message each is left out from now on."""
        number = self._owner.new_full((len(self._colours),), -1)
        number[graphs] = graphs * self._colours.shape[1] + places
        hit = self._message == number[self._owner]  # (T, R), at most once a row
        moved, which = hit.any(0), hit.int().argmax(0)[None]
        divergence, changed = (x.gather(0, which)[0] for x in (self._divergence, self._changed))
        self._now = torch.where(moved, divergence, self._now[0]), torch.where(moved, changed, self._now[1])


@torch.no_grad()
def reached(copies: Copies, places: Tensor, count: int, *, alone: bool = False) -> Tensor:
    """Return bool ``(G, count, N)``: which of its graph's N rows a message reaches; where it cannot be known, all.

    Args:
        copies: of G graphs.
        places: ``(L, E)``.
        count: of places.
        alone: whether each is to count as reaching all.
    """
    graphs = copies.graphs
    start = row_starts(copies.output, graphs)
    owner, widest = _owners(start), int(start.diff().max())
    there = torch.arange(widest, device=graphs.device) < start.diff()[:, None]  # (G, N)
    everything = there[:, None].expand(-1, count, -1)
    if widest < 2 or alone:
        return everything
    found = torch.zeros_like(everything)
    inside = torch.arange(len(owner), device=graphs.device) - start[owner]
    before = _rows(copies, None).flatten(1)[: len(owner)]
    for numbers in torch.arange(count, device=graphs.device).split(copies.count):
        tried = places == numbers[:, None, None]  # (T, L, E)
        ones = torch.ones(tried.shape, dtype=before.dtype, device=graphs.device)
        under_nan, under_zero = (
            _rows(copies, ones.masked_fill(tried, value)).view(-1, *before.shape)[: len(numbers)]
            for value in (torch.nan, 0.0)
        )
        tainted = under_nan.isnan().any(2)  # (T, R)
        moved = ~((under_zero - before).abs().amax(2) <= MOVED * float(before.abs().max()))
        if bool((moved & ~tainted).any()):
            return everything
        found[owner[None], numbers[:, None], inside[None]] = tainted
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


def row_starts(output: Output, graphs: GraphBatch) -> Tensor:
    """Return ``(G + 1,)``: the first row of every graph, among those of :meth:`.Output.select`, and their number."""
    if output.level == "node":
        return graphs.node_ptr
    return torch.arange(graphs.num_graphs + 1, device=graphs.device)


def _rows(copies: Copies, gates: Tensor | None) -> Tensor:
    """Return the rows of all copies, ``(copies R, ...)``: of the original output, or under gates ``(T, L, E)``."""
    recording = copies.recording
    if gates is None:
        return copies.output.select(recording.logits, recording.graphs)
    padded = torch.cat([gates, gates[:1].expand(copies.count - len(gates), -1, -1)]).transpose(0, 1).flatten(1)
    return copies.output.select(recording.forward(padded.to(recording.logits.dtype)), recording.graphs)


def _owners(start: Tensor) -> Tensor:
    """Return the graph of every row ``(R,)``."""
    return torch.repeat_interleave(torch.arange(len(start) - 1, device=start.device), start.diff())
