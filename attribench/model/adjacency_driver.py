"""The driver of layers of adjacency matrices: Eq. 10, on the entries that are edges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .adjacency import AdjacencyLayer, Padding
from .baseline import Baseline
from .call import Call
from .driver import Driver, Pass, Session
from .recording import Recording, filled


@dataclass(frozen=True, eq=False)
class AdjacencyCall(Call):
    """A call of such a layer.

    Args:
        padding: where nodes and edges stand.
        matrices: their shape, ``(G, R, V, V)``, or without R.
        relation: name of the edges' attribute that says of which matrix an edge is an entry; None with a single one.
        padded: ``(G, R, V, D)``, or without R, what every node sends in each relation.
    """

    padding: Padding = field(kw_only=True)
    matrices: torch.Size = field(kw_only=True)
    relation: str | None = field(kw_only=True)
    padded: Tensor = field(kw_only=True)

    @property
    def num_relations(self) -> int:
        """R."""
        return self.padding.shape[1]

    @property
    def sender(self) -> Tensor:
        """``(E,)``: for every edge the row of :meth:`sends` that it carries."""
        size = self.padding.shape[-1]
        relation = self.padding.entry // (size * size) % self.num_relations
        return self.source * self.num_relations + relation

    def sends(self) -> Tensor:
        """Return ``(N R, D)``: what every node sends in each relation, to all that it reaches."""
        padded = self.padded.view(*self.padding.shape[:3], -1)
        return self.padding.nodes(padded.transpose(1, 2)).flatten(0, 1)

    def read(self) -> list[Tensor]:
        """Return the states ``(N, H)``: what is read of an entry is read of its nodes."""
        return [self.h_source.flatten(1)]

    def pairs(self, targets: Tensor, sources: Tensor) -> Tensor:
        """Return the products of what stands for every edge's target and for its source ``(E,)``, as in Eq. 9.

        Args:
            targets: ``(N, R, F)``, of every node one vector for every relation in which it may be the target.
            sources: ``(N, F)``.
        """
        rows, columns = self.padding.pad(targets).transpose(1, 2), self.padding.pad(sources)
        return (rows @ columns[:, None].transpose(2, 3)).flatten()[self.padding.entry]


class AdjacencyDriver(Driver):
    """Drives an :class:`AdjacencyLayer`: gates ``(E,)`` become factors of the entries that are edges."""

    sends_vectors = False
    layer: AdjacencyLayer

    def __init__(self, layer: nn.Module, session: Session) -> None:
        super().__init__(layer, session)
        self._state: Any = None
        self._addition: Tensor | None = None

    def attach(self, handles: list[RemovableHandle]) -> None:
        """Register hooks on the layer, and on its sum of messages."""
        handles.append(self.layer.register_forward_pre_hook(self._on_layer, with_kwargs=True))
        handles.append(self.layer.aggregate.register_forward_pre_hook(self._before, with_kwargs=True))
        handles.append(self.layer.aggregate.register_forward_hook(self._after, prepend=True))

    def silence(self, handles: list[RemovableHandle]) -> None:
        """Multiply messages by zero."""

        def zero(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            adjacency, messages = _given(args, kwargs)
            return (adjacency, messages * 0), {}

        handles.append(self.layer.aggregate.register_forward_pre_hook(zero, with_kwargs=True))

    def reset(self) -> None:
        """Forget the pass."""
        self._state = self._addition = None

    def _on_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.session.encoding:
            raise self.refusal("passes messages in encode(), where no gate can reach them", "decode()")
        if self.session.current is not None:
            self._state = args[0] if args else next(iter(kwargs.values()), None)

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        current = self.session.current
        if current is None:
            return None
        adjacency, messages = _given(args, kwargs)
        if current.recording is None:
            self._record(current, adjacency, messages)
            return None
        return (self._gate(current, current.recording, adjacency), messages), {}

    def _after(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        addition, self._addition = self._addition, None
        return None if addition is None else output + addition

    def _record(self, current: Pass, adjacency: Any, messages: Any) -> None:
        """Check that the matrices' entries are the batch's edges, and append the call."""
        graphs, k, take = current.graphs, len(current.calls), current.watch.take
        relations = self._check_shapes(adjacency, messages, graphs.num_graphs)
        name = self.layer.relation
        if name is not None and name not in graphs.edge:
            what = f"has a matrix for every {name!r} of edges, which have none"
            raise self.refusal(what, f"relation=, one of {', '.join(graphs.edge) or 'None'}")
        size = adjacency.shape[-1]
        largest = int(graphs.num_nodes_per_graph.max())
        if size < largest:
            raise self.refusal(
                f"has matrices of {size} nodes where a graph has {largest}", "those of attribench.Padding"
            )
        # The layers of a model mostly have matrices of one shape.
        calls = (call for call in current.calls if isinstance(call, AdjacencyCall))
        alike = (call.padding for call in calls if (call.relation, call.matrices) == (name, adjacency.shape))
        known = next(alike, None)
        padding = known or Padding.of(graphs, None if name is None else graphs.edge[name], relations, size)
        self._check_entries(adjacency, padding)
        state = self._state
        if not isinstance(state, Tensor) or state.dim() < 3 or state.shape[:2] != (graphs.num_graphs, size):
            got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
            what = f"reads {got} first, and not states of shape (G, V, H) = ({graphs.num_graphs}, {size}, H)"
            raise self.refusal(what, "states as the first argument of forward()")
        h = take(f"states of call {k}", padding.nodes(state))
        source, target = graphs.edge_index
        current.calls.append(
            AdjacencyCall(
                None,
                h,
                h,
                source,
                target,
                messages.shape[-1],
                padding=padding,
                matrices=adjacency.shape,
                relation=name,
                padded=take(f"messages of call {k}", messages),
            )
        )

    def _check_shapes(self, adjacency: Any, messages: Any, count: int) -> int:
        """Return R, of matrices ``(G, R, V, V)`` and messages ``(G, R, V, D)``, or both without R."""
        a, m = (tuple(x.shape) if isinstance(x, Tensor) else () for x in (adjacency, messages))
        fits = len(a) == len(m) and len(a) in (3, 4) and a[0] == count
        if not (fits and a[:-2] == m[:-2] and a[-1] == a[-2] == m[-2]):
            what = f"aggregates matrices of shape {a} and messages of shape {m} of {count} graphs"
            raise self.refusal(what, "(G, R, V, V) and (G, R, V, D), or both without R")
        if not adjacency.is_floating_point():
            raise self.refusal(f"has matrices of {adjacency.dtype}, which no gate can multiply", "adjacency.float()")
        return a[1] if len(a) == 4 else 1

    def _check_entries(self, adjacency: Tensor, padding: Padding) -> None:
        """Refuse entries that are several edges or none, but for those from a node to itself, and edges without one."""
        edges = len(padding.entry)
        several = edges - len(padding.entry.unique())
        if several:
            what = f"has one entry for several edges of one relation from a node to another, {several} too many"
            raise self.refusal(what, "graphs without parallel edges, or relation= to tell them apart")
        entries = adjacency.detach().reshape(padding.shape) != 0
        loops = torch.eye(padding.shape[-1], dtype=torch.bool, device=adjacency.device)
        allowed = (padding.matrices(adjacency.new_ones(edges)) > 0) | loops
        others = entries & ~allowed
        if bool(others.any()):
            g, r, v, u = others.nonzero()[0].tolist()
            what = (
                f"has {int(others.sum())} entries that are no edges of the graphs, such as that of relation {r} from "
                f"node {u} to node {v} of graph {g} (rows are targets)"
            )
            raise self.refusal(what, "graphs that have all edges from the start, and relation= where there are several")
        missing = ~entries.reshape(-1)[padding.entry]
        if bool(missing.any()):
            what = f"has entries of 0 for {int(missing.sum())} of {edges} edges, which would be gated and send nothing"
            raise self.refusal(what, "graphs with the edges alone that the matrices have")

    def _gate(self, current: Pass, recording: Recording, adjacency: Tensor) -> Tensor:
        """Return z a, and keep what the baselines add."""
        k = current.next_layer(recording)
        call = recording.calls[k]
        if not isinstance(call, AdjacencyCall) or adjacency.shape != call.matrices:
            what = f"has matrices of shape {tuple(adjacency.shape)}, others than in the unmasked pass"
            raise self.refusal(what, "the same in every pass")
        z, b = recording.gating(k, current.gates, current.baselines)
        if z is None:
            return adjacency
        if b is not None:
            self._addition = _sum_of_baselines(adjacency, call, z, b)
        return adjacency * call.padding.factors(z).view(call.matrices)


def _sum_of_baselines(adjacency: Tensor, call: AdjacencyCall, z: Tensor, baseline: Baseline) -> Tensor:
    """Return the sum over the messages that reach a node of (1 - z) a b, ``(G, V, D)``."""
    padding = call.padding
    count, _, size, _ = padding.shape
    if baseline.kind != "per edge":  # one number for a node tells how much of b it hears
        closed = adjacency.reshape(padding.shape) * padding.matrices(1 - z)
        values = baseline.values if baseline.kind == "shared" else baseline.values[:, None]
        sums = (closed.sum((1, 3))[..., None] * values).expand(-1, -1, call.width)
        if baseline.noise is None:
            return sums
        # a sum of independent draws is a draw, whose variance is the sum of theirs
        variance = closed.square().sum((1, 3)).clamp(min=torch.finfo(closed.dtype).tiny)  # its root has a gradient
        return sums + variance.sqrt()[..., None] * padding.pad(baseline.noise)
    rows = adjacency.reshape(-1)[padding.entry, None] * filled(z, baseline.values, (call.width,))
    target = padding.slot[call.target]
    whole = rows.new_zeros(count * size, call.width).index_add(0, target, rows.expand(-1, call.width))
    return whole.view(count, size, call.width)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    given = {**dict(zip(("adjacency", "messages"), args, strict=False)), **kwargs}
    return given.get("adjacency"), given.get("messages")
