"""Greedy erasure, one message at a time: the approximation of erasure search where exact search is out of reach.

In every round each remaining message of a graph is removed on its own (Zintgraf et al. 2017); the one whose removal
keeps the prediction and changes the output least (D*) is removed for good. A graph is done when no further removal
keeps its prediction, within a tolerance of D* where one is given. All graphs, and many candidates of each, are tried at
once; candidates that reach no row of the output in common in one pass (``_waves``).

Of n messages that takes up to n (n + 1) / 2 evaluations. Where these are within what a graph is given, as its size
alone tells, that is what is done. Larger graphs start by halves (``_halves``, after Zeller & Hildebrandt 2002), and go
on one message at a time as soon as what is left of the evaluations is enough for that.

*Exact*, by halves too: the mask keeps the prediction, within the tolerance, and is 1-minimal: no single message that is
left can be removed. *Approximated*, by halves: which of the 1-minimal masks it is. Messages of one group are judged
together, and ranked as they were when the graph was last measured: the mask may be another, or a larger one, than one
message at a time would find. A graph that is not 1-minimal by the end of its evaluations is unfinished.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from pydantic import Field
from torch import Tensor

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.plugins.method import Attribution, Method, config
from attribench.plugins.registry import METHODS

from ._halves import Erased, Halves, one_at_a_time
from ._pilot import allowance, first_graphs, require_nine_of_ten
from ._subsets import Copies, canonical_rank
from ._waves import OneByOne, Removal, Waves, reached


@config
class GreedyConfig:
    """Options."""

    tolerance: float | None = Field(
        None,
        ge=0,
        description="nats of D* that the output may move by, as for graphmask-nonamortized; none: any, as long as the "
        "prediction stays",
    )
    budget: int = Field(
        100_000,
        ge=1,
        description="sets of messages evaluated per graph, fewer where it has more than 500 messages; graphs of n "
        "messages are erased by halves where n (n + 1) / 2 is more, and left unfinished where that is not enough",
    )
    pilot: int = Field(
        10,
        ge=0,
        description="validation graphs erased first, unless their sizes tell that one message at a time is within the "
        "budget; the method is skipped if it finishes fewer than 9 of 10",
    )


@METHODS.register
class GreedyErasure(Method):
    """Greedy erasure: drop one message at a time while the prediction stays (after Li et al. 2016)."""

    name = "erasure-greedy"
    Config = GreedyConfig
    decides = True
    needs_gradients = False
    config: GreedyConfig

    def fit(self) -> None:
        """Erase some validation graphs, those alone that may not be finished.

        Raises:
            Skipped: when fewer than nine of ten are finished.
        """
        first = first_graphs(self.subject.validation, self.config.pilot)
        messages = self._messages(first)
        large = one_at_a_time(messages) > allowance(self.config.budget, messages)
        if bool(large.any()):
            require_nine_of_ten(first, self._by_size(first, large), self._reason)

    def _reason(self, unfinished: GraphBatch) -> str:
        """Say why the method is skipped, given graphs that it did not finish."""
        most = self._messages(unfinished).max()
        return (
            "greedy erasure finishes fewer than nine of ten validation graphs within its budget: a graph of "
            f"{int(most)} messages is given {int(allowance(self.config.budget, most))} evaluations; removing each of "
            f"them once takes {int(most)}, and dropping one after the other up to {int(one_at_a_time(most))}"
        )

    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Erase all graphs of the batch; score: 1 for what is left, below 1 the higher the later it was dropped.

        Those that outrun the budget are not ``complete`` and retain everything.
        """
        mask = torch.ones(self.subject.num_layers, graphs.num_edges, dtype=torch.bool, device=graphs.device)
        scores = torch.ones(mask.shape, device=graphs.device)
        messages = self._messages(graphs)
        complete = messages == 0
        for index, kept, dropped_in, finished in self._by_size(graphs, ~complete):
            edges = graphs.edges_of(index)
            order = dropped_in / (messages[graphs.edge_graph[edges]] + 1)
            mask[:, edges], scores[:, edges], complete[index] = kept, torch.where(kept, 1.0, order), finished
        return Attribution(scores, hard_mask=mask, complete=complete)

    def _messages(self, graphs: GraphBatch) -> Tensor:
        """Return ``(G,)``: each graph's messages, over all layers."""
        return self.subject.num_layers * graphs.num_edges_per_graph

    def _by_size(
        self, graphs: GraphBatch, among: Tensor
    ) -> Generator[tuple[Tensor, Tensor, Tensor, Tensor], None, None]:
        """Erase the graphs of ``among`` ``(G,)`` bool, graphs of like size together.

        Yields:
            Which graphs, ``(g,)``; of their messages which are kept, and the turns in which the others were dropped,
            ``(L, E)`` each; and which of the graphs were finished, ``(g,)`` bool.
        """
        messages = self._messages(graphs)
        given = allowance(self.config.budget, messages)
        plain = among & (one_at_a_time(messages) <= given)
        hopeless = among & (messages > given)  # they cannot be measured once, so that no pass is spent on them
        rank = canonical_rank(graphs, self.subject.num_layers)  # (L, E)
        yield self._unfinished(graphs, hopeless.nonzero()[:, 0])
        groups = [*of_like_size(messages * plain), *of_like_size(messages * (among & ~plain & ~hopeless))]
        with self.gates() as gates:
            for group in self.track(groups, "graphs of like size"):
                selected, places = graphs.select(group), rank[:, graphs.edges_of(group)]
                if plain[group[0]]:
                    erased = self._one_at_a_time(gates, selected, places)
                    finished = torch.ones_like(plain[group])
                else:
                    erased, finished = self._by_halves(gates, selected, places, given[group])
                yield group, *(x[selected.edge_graph, places] for x in (erased.kept, erased.dropped_in)), finished

    def _unfinished(self, graphs: GraphBatch, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what is yielded of graphs that are not tried."""
        everything = torch.ones(self.subject.num_layers, len(graphs.edges_of(index)), device=graphs.device)
        return index, everything.bool(), torch.zeros_like(everything), torch.zeros_like(index, dtype=torch.bool)

    def _one_at_a_time(self, gates: Gates, graphs: GraphBatch, places: Tensor) -> Erased:
        """Erase graphs whose sizes tell that they will be finished, several messages in a pass where that is right."""
        erased = Erased.nothing(self._messages(graphs))
        reach = reached(gates, self.subject.output, graphs, places, erased.kept.shape[1])
        if not self._erase(gates, graphs, places, erased, reach):
            erased = Erased.nothing(self._messages(graphs))
            self._erase(gates, graphs, places, erased, None)
        return erased

    def _by_halves(self, gates: Gates, graphs: GraphBatch, places: Tensor, given: Tensor) -> tuple[Erased, Tensor]:
        """Erase graphs by halves, then one message at a time; return also which are finished, bool ``(G,)``.

        Of those that are not, everything is kept.
        """
        erased = Erased.nothing(self._messages(graphs))
        halves = Halves(gates, self.subject.output, graphs, places, self._most, erased, given)
        halves.run()
        finished, few = halves.minimal | halves.few, (halves.few & ~halves.minimal).nonzero()[:, 0]
        rest = erased.select(few)
        self._erase(gates, graphs.select(few), places[:, graphs.edges_of(few)], rest, None)
        erased.put(few, rest)
        erased.put((~finished).nonzero()[:, 0], Erased.nothing(self._messages(graphs)).select(~finished))
        return erased, finished

    def _erase(self, gates: Gates, graphs: GraphBatch, rank: Tensor, erased: Erased, reach: Tensor | None) -> bool:
        """Erase graphs one message at a time, from what is left of them, and note what became of each message.

        ``rank`` ``(L, E)`` are the places; ``reach`` says which rows messages reach, where many are tried in a pass.

        Returns:
            False where messages did something else together than each by itself.
        """
        output, kept, gone = self.subject.output, erased.kept, erased.turns
        removal: Removal | None = None
        index = members = kept.any(1).nonzero()[:, 0]
        count = int(kept.sum(1).max()) if len(index) else 0
        for turn in range(count):
            if removal is None or 2 * len(index) <= len(members) or removal.wasteful():
                if removal is not None and not removal.agrees(kept[members]):
                    return False
                members = index
                selected, places = graphs.select(members), rank[:, graphs.edges_of(members)]
                if reach is None:
                    removal = OneByOne(Copies(gates, output, selected, count), places)
                else:
                    removal = Waves(gates, output, selected, places, kept[members], reach[members])
            left = kept[members]
            unchanged, divergence = removal.remove_each(left)
            change = torch.where(unchanged & (divergence <= self._most) & left, divergence, torch.inf)
            best = change.amin(1)
            # Equal messages differ in their last bits with the batch; what is as good as equal goes by place.
            rounding = torch.finfo(removal.dtype).eps ** 0.5
            place = (change <= (best + rounding * (1 + best))[:, None]).int().argmax(1)
            can = torch.isfinite(best).nonzero()[:, 0]
            removal.drop(can, place[can])
            index, dropped = members[can], place[can]
            kept[index, dropped] = False
            erased.dropped_in[index, dropped] = gone[index] + turn + 1.0
            index = index[kept[index].any(1)]
            if not len(index):
                break
        return removal is None or removal.agrees(kept[members])

    @property
    def _most(self) -> float:
        """The largest D* that is allowed."""
        return math.inf if self.config.tolerance is None else self.config.tolerance


def of_like_size(messages: Tensor) -> list[Tensor]:
    """Return graphs in groups, numbers of messages within a quarter: each is given as many tries as the largest."""
    sizes, order = messages.sort()
    groups, start = [], int((sizes == 0).sum())
    while start < len(sizes):
        end = int((sizes <= sizes[start] * 1.25).sum())
        groups.append(order[start:end])
        start = end
    return groups
