"""The contract that every method keeps, which ``check NAME`` and the tests run, and the door to a task's.

Methods are checked on an untrained R-GCN over random graphs, in float64: one and three layers that send a message for
every edge, and two layers of adjacency matrices.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch_geometric.nn import FastRGCNConv

from ..base.errors import UserError, first_line
from ..base.seeds import generator
from ..explaining.job import FAULTS
from ..model.adjacency import AdjacencyLayer, Padding
from ..model.graphs import GraphBatch
from ..model.integrity import differences, fingerprint, graphs_digest
from ..model.model import GraphModel
from ..model.output import GraphClassification
from ..plugins.configs import make_config
from ..plugins.method import Attribution, Method, Subject
from ..plugins.registry import METHODS, TASKS
from .tasks import TOLERANCE, Check, TaskContract

Form: TypeAlias = Literal["messages", "matrices"]
DEPTHS = (1, 3)
"""Layers that send a message for every edge."""
SUBJECTS: tuple[tuple[int, Form], ...] = (*((depth, "messages") for depth in DEPTHS), (2, "matrices"))
"""Depths and forms of the models that methods are checked on."""
RELATIONS = 3


class DenseRGCN(AdjacencyLayer):
    """The sum over relations of A_r H W_r (Eq. 8), with what a node says to itself."""

    def __init__(self, width: int, relations: int) -> None:
        super().__init__("edge_type")
        self.weight = nn.Parameter(torch.randn(relations, width, width) / width**0.5)
        self.root = nn.Linear(width, width)

    def forward(self, h: Tensor, adjacency: Tensor) -> Tensor:
        """Return ``(G, V, D)`` of states, by matrices ``(G, R, V, V)``."""
        out: Tensor = self.aggregate(adjacency, h[:, None] @ self.weight) + self.root(h)
        return out


class ContractModel(GraphModel):
    """An R-GCN of ``depth`` layers with random weights, which can be told to fail in its n-th pass."""

    def __init__(self, depth: int, width: int = 6, relations: int = RELATIONS, form: Form = "messages") -> None:
        super().__init__()
        self.form, self.relations = form, relations
        self.embed = nn.Linear(4, width)
        self.layers = nn.ModuleList(
            DenseRGCN(width, relations) if form == "matrices" else FastRGCNConv(width, width, relations, aggr="add")
            for _ in range(depth)
        )
        self.readout = nn.Linear(width, 3)
        self.passes_until_failure = [-1]  # in a list: counting down is not a change of the model

    def encode(self, graphs: GraphBatch) -> Tensor:
        """Embed the nodes."""
        state: Tensor = self.embed(graphs["x"])
        return state

    def decode(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        """Pass messages and sum the nodes of each graph."""
        state = self._by_matrices(graphs, state) if self.form == "matrices" else self._by_messages(graphs, state)
        self.passes_until_failure[0] -= 1
        if self.passes_until_failure[0] == 0:
            raise InjectedError
        pooled = state.new_zeros(graphs.num_graphs, state.shape[1]).index_add(0, graphs.batch, state)
        logits: Tensor = self.readout(pooled)
        return logits

    def _by_messages(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        for layer in self.layers:
            state = layer(state, graphs.edge_index, graphs["edge_type"]).tanh()
        return state

    def _by_matrices(self, graphs: GraphBatch, state: Tensor) -> Tensor:
        padding = Padding.of(graphs, graphs["edge_type"], self.relations)
        adjacency, padded = padding.matrices(state.new_ones(graphs.num_edges)), padding.pad(state)
        for layer in self.layers:
            padded = layer(padded, adjacency).tanh()
        return padding.nodes(padded)


class InjectedError(RuntimeError):
    """Raised on purpose in the middle of a pass."""


def random_graphs(count: int, name: str) -> GraphBatch:
    """Draw small directed graphs of 3 to 6 nodes with 4 to 10 edges of 3 types, without self-loops, in float64."""
    draw = generator("contract", name)

    def integers(low: int, high: int, size: int) -> Tensor:
        return torch.randint(low, high, (size,), generator=draw)

    nodes, edges = integers(3, 7, count), integers(4, 11, count)
    node_ptr, edge_ptr = (torch.cat([torch.zeros(1, dtype=torch.long), x.cumsum(0)]) for x in (nodes, edges))
    total, size = int(edge_ptr[-1]), torch.repeat_interleave(nodes, edges)
    first = torch.repeat_interleave(node_ptr[:-1], edges)
    source = (torch.rand(total, generator=draw) * size).long()
    target = (source + 1 + (torch.rand(total, generator=draw) * (size - 1)).long()) % size
    return GraphBatch(
        edge_index=torch.stack([source, target]) + first,
        node_ptr=node_ptr,
        edge_ptr=edge_ptr,
        graph_key=torch.arange(count) * 7 + 3,
        edge_key=torch.arange(total) - torch.repeat_interleave(edge_ptr[:-1], edges),
        node={"x": torch.randn(int(node_ptr[-1]), 4, generator=draw, dtype=torch.float64)},
        edge={"edge_type": integers(0, RELATIONS, total)},
    )


def coalesced(graphs: GraphBatch) -> GraphBatch:
    """Return the first of all edges of a type from a node to another: matrices have one entry for them."""
    source, target = graphs.edge_index
    entry = (source * graphs.num_nodes + target) * RELATIONS + graphs["edge_type"]
    _, number = entry.unique(return_inverse=True)
    place = torch.arange(graphs.num_edges)
    first = torch.full((graphs.num_edges,), graphs.num_edges).scatter_reduce(0, number, place, "amin")
    return graphs.keep_edges(first[number] == place)


def graphs_of(count: int, name: str, form: Form) -> GraphBatch:
    """Return random graphs for models of a form."""
    graphs = random_graphs(count, name)
    return coalesced(graphs) if form == "matrices" else graphs


def contract_subject(depth: int, form: Form = "messages") -> Subject:
    """Return the subject on which methods are checked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(depth)
        model = ContractModel(depth, form=form).double().eval()
    train, validation = (graphs_of(count, name, form) for count, name in ((40, "train"), (12, "validation")))
    return Subject(model, GraphClassification(), train, validation, depth)


def check_plugin(name: str, *, tracebacks: bool = False) -> Iterator[tuple[str, str | None]]:
    """Yield every check of a method or task with None where it holds, else what is wrong.

    Args:
        name: of the plugin.
        tracebacks: whether an unexpected error is told with its traceback, not with its last line of the plugin alone.

    Raises:
        UserError: when there is no plugin of that name.
    """
    if name in METHODS:
        for depth, form in SUBJECTS:
            layers = f"{depth} layer{'s' if depth > 1 else ''}{' of matrices' if form == 'matrices' else ''}"
            for title, check in MethodContract(METHODS[name], depth, form).checks():
                yield f"{title} ({layers})", _outcome(check, tracebacks)
    elif name in TASKS:
        for title, check in TaskContract(TASKS[name]).checks():
            yield title, _outcome(check, tracebacks)
    else:
        raise UserError(f"expected a method or task among {', '.join([*METHODS, *TASKS])}; got {name!r}")


def _outcome(check: Check, tracebacks: bool) -> str | None:
    try:
        return check()
    except FAULTS as error:
        told = "\n" + traceback.format_exc().rstrip() if tracebacks else ""
        return f"{first_line(error)}{told}"


class MethodContract:
    """The checks of one method on one subject."""

    def __init__(self, method: type[Method], depth: int, form: Form = "messages") -> None:
        self.kind = method
        self.subject = contract_subject(depth, form)
        self.model: Any = self.subject.model
        self.depth = depth
        self.graphs = graphs_of(15, "test", form)
        self._fitted: Method | None = None

    def checks(self) -> list[tuple[str, Check]]:
        """Return titles and checks."""
        reason = self.kind.reason_against(self.subject)
        if reason is not None:
            return [("is skipped for a stated reason", lambda: None if reason.strip() else "the reason is empty")]
        return [
            ("scores have the right shape and finite values", self.shapes),
            ("a graph alone equals the same graph in a batch", self.batch_invariance),
            ("the order of edges does not matter", self.edge_order),
            ("the order of graphs does not matter", self.graph_order),
            ("equal seeds give equal scores", self.determinism),
            ("the graphs are left as found", self.graphs_left_as_found),
            ("the model is left as found after success", self.left_as_found),
            ("the model is left as found after an error", self.left_as_found_after_error),
        ]

    def make(self, seed: int = 0) -> Method:
        """Return a new instance with quick settings."""
        config = make_config(self.kind.name, self.kind.Config, self.kind.quick)
        return self.kind(config, subject=self.subject, seed=seed)

    def fitted(self) -> Method:
        """Return an instance that was fitted once for all checks."""
        if self._fitted is None:
            method = self.make()
            method.fit()
            self._fitted = method
        return self._fitted

    def shapes(self) -> str | None:
        """Attribution validates values; this checks it against the batch."""
        self.fitted().attribute(self.graphs).check(self.graphs, self.depth)
        return None

    def batch_invariance(self) -> str | None:
        """Explain the batch, then every graph alone."""
        whole = self.fitted().attribute(self.graphs)
        for graph in range(self.graphs.num_graphs):
            index = torch.tensor([graph])
            alone = self.fitted().attribute(self.graphs.select(index))
            wrong = _differences(whole.select(self.graphs, index), alone)
            if wrong:
                return f"graph {graph}: {wrong}"
        return None

    def edge_order(self) -> str | None:
        """Reverse the edges of every graph."""
        first, last = self.graphs.edge_ptr[:-1], self.graphs.edge_ptr[1:] - 1
        order = (first + last)[self.graphs.edge_graph] - torch.arange(self.graphs.num_edges)
        whole = self.fitted().attribute(self.graphs)
        return _differences(_edges(whole, order), self.fitted().attribute(self.graphs.reorder_edges(order)))

    def graph_order(self) -> str | None:
        """Reverse the graphs."""
        index = torch.arange(self.graphs.num_graphs).flip(0)
        whole = self.fitted().attribute(self.graphs)
        return _differences(whole.select(self.graphs, index), self.fitted().attribute(self.graphs.select(index)))

    def determinism(self) -> str | None:
        """Fit and attribute with two new instances, under different states of the global generator."""
        return _differences(self._once(1), self._once(2), tolerance=0.0)

    def _once(self, state: int) -> Attribution:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            method = self.make(seed=5)
            method.fit()
            return method.attribute(self.graphs)

    def graphs_left_as_found(self) -> str | None:
        """Compare hashes of all graphs around fit and attribute."""
        batches = (self.subject.train, self.subject.validation, self.graphs)
        before = [graphs_digest(batch) for batch in batches]
        method = self.make()
        method.fit()
        method.attribute(self.graphs)
        return None if [graphs_digest(batch) for batch in batches] == before else "a batch was changed in place"

    def left_as_found(self) -> str | None:
        """Compare fingerprints around fit and attribute, with parts of the model in training mode."""
        self.model.readout.train()
        before = fingerprint(self.model, self.graphs)
        method = self.make()
        method.fit()
        method.attribute(self.graphs)
        changed = differences(before, fingerprint(self.subject.model, self.graphs))
        self.subject.model.eval()
        return f"changed: {', '.join(changed)}" if changed else None

    def left_as_found_after_error(self) -> str | None:
        """Let the model fail in the first and second pass of fit and of attribute."""
        model = self.model
        for passes in (1, 2):
            for phase in ("fit", "attribute"):
                method = self.fitted() if phase == "attribute" else self.make()
                before = fingerprint(model, self.graphs)
                model.passes_until_failure[0] = passes
                try:
                    method.fit() if phase == "fit" else method.attribute(self.graphs)
                    raised = False
                except InjectedError:
                    raised = True
                swallowed = not raised and model.passes_until_failure[0] <= 0
                model.passes_until_failure[0] = -1
                changed = differences(before, fingerprint(model, self.graphs))
                if changed or swallowed:
                    return f"{phase}: " + (f"changed {', '.join(changed)}" if changed else "the error was swallowed")
        return None


def _edges(attribution: Attribution, edges: Tensor) -> Attribution:
    """Return the attribution with its edges in another order."""
    hard = None if attribution.hard_mask is None else attribution.hard_mask[:, edges]
    return replace(attribution, scores=attribution.scores[:, edges], hard_mask=hard)


def _differences(a: Attribution, b: Attribution, tolerance: float = TOLERANCE) -> str | None:
    """Name the first part of two attributions that differs."""
    pairs: dict[str, tuple[Tensor | None, Tensor | None]] = {
        "scores": (a.scores, b.scores),
        "hard masks": (a.hard_mask, b.hard_mask),
        "complete graphs": (a.complete, b.complete),
    }
    if len(a.baselines or ()) != len(b.baselines or ()) or a.diagnostics.keys() != b.diagnostics.keys():
        return "one has baselines or diagnostics that the other lacks"
    mine, other = a.baselines or (), b.baselines or ()
    pairs |= {f"baselines of layer {k}": pair for k, pair in enumerate(zip(mine, other, strict=True))}
    pairs |= {f"diagnostics {name}": (a.diagnostics[name], b.diagnostics[name]) for name in a.diagnostics}
    for name, (x, y) in pairs.items():
        if (x is None) != (y is None):
            return f"one has no {name}"
        if x is not None and y is not None:
            gap = float((x.double() - y.double()).abs().max())
            if gap > tolerance:
                return f"{name} differ by {gap:.3g}; at most {tolerance:g} is allowed"
    return None
