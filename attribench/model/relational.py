"""The driver of ``RGCNConv``: a layer that is a group of calls, one per relation, each over the edges of its type.

Message m of an edge from u to v of relation r is W_r h_u, as in Eq. 2 of Schlichtkrull et al. 2018 and as
``FastRGCNConv`` sends it. ``RGCNConv`` sends h_u, sums or averages over each relation's edges, and multiplies by W_r
afterwards. Both are linear, so that z * m is had by sending z * h_u, and (1 - z) * b by adding its own sum or mean to
the layer's output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch_geometric.nn import MessagePassing, RGCNConv
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation

from .call import Call
from .driver import Pass, Session
from .pyg import PyGDriver
from .recording import Recording, filled, kept

_AGGREGATIONS = (SumAggregation, MeanAggregation)


@dataclass(eq=False)
class _Group:
    """The calls of one layer that were made so far.

    Args:
        edges: ``(2, E + S)``, along which the layer passes messages.
        edge_type: ``(E + S,)``.
        carried: the edges of every relation.
        states: h_source and h_target, in the unmasked pass.
        gates: z of all edges ``(E + S,)``, in a gated pass; None where all are open.
        addition: what the baselines add to the output ``(N, D)``, in a gated pass.
        number: how many calls have begun.
        sent: the messages of every call.
    """

    edges: Tensor
    edge_type: Tensor
    carried: tuple[Tensor, ...]
    states: tuple[Tensor, Tensor] | None = None
    gates: Tensor | None = None
    addition: Tensor | None = None
    number: int = 0
    sent: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class RelationalCall(Call):
    """A call of such a layer.

    Args:
        edge_type: ``(E + S,)``, by which the edges are told apart.
        share: ``(E, 1)``, one over the number of messages that reach the same node in the same relation, where the
            layer averages; None where it sums.
    """

    edge_type: Tensor = field(kw_only=True)
    share: Tensor | None = field(kw_only=True)


class RelationalDriver(PyGDriver):
    """Drives an ``RGCNConv``, also with bases or blocks of weights, as one layer over all edges."""

    layer: RGCNConv

    def __init__(self, layer: nn.Module, session: Session) -> None:
        super().__init__(layer, session)
        self._group: _Group | None = None

    @classmethod
    def fits(cls, layer: nn.Module) -> bool:
        """Say whether the layer runs as ``RGCNConv`` does: subclasses may change what is sent, and nothing after it."""
        kind = type(layer)
        return (
            kind.forward is RGCNConv.forward
            and getattr(kind, "aggregate", None) is MessagePassing.aggregate
            and getattr(kind, "update", None) is MessagePassing.update
        )

    def attach(self, handles: list[RemovableHandle]) -> None:
        """Register hooks on the layer; on its output first of all, since other hooks may read that.

        Raises:
            UnsupportedModelError: for hooks of the user's on messages, sums or means: these need not be linear.
        """
        for name in ("_aggregate_forward_pre_hooks", "_aggregate_forward_hooks", "_propagate_forward_hooks"):
            if not all(self.is_ours(hook) for hook in getattr(self.layer, name).values()):
                what = "has hooks between its messages and its output"
                raise self.refusal(what, "a layer without, and do what they do after it")
        super().attach(handles)
        handles.append(self.layer.register_forward_hook(self._on_output, prepend=True))

    def reset(self) -> None:
        """Forget the pass."""
        self._group = None

    def _on_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current = self.session.current
        if current is None:
            return
        given = {**dict(zip(("x", "edge_index", "edge_type"), args, strict=False)), **kwargs}
        x, edges, edge_type = given.get("x"), given.get("edge_index"), given.get("edge_type")
        if current.recording is None:
            self._group = self._begin_recorded(current, x, edges, edge_type)
        else:
            self._group = self._begin_gated(current, current.recording, edges, edge_type)

    def _begin_recorded(self, current: Pass, x: Any, edges: Any, edge_type: Any) -> _Group:
        """Check that the relations' edges are together the batch's, and open the group."""
        self.refuse_several(current)
        if not isinstance(self.layer.aggr_module, _AGGREGATIONS):
            what = f"aggregates each relation by {type(self.layer.aggr_module).__name__}, before the relation's weights"
            raise self.refusal(what, "aggr='add' or aggr='mean'")
        self.check_edges(edges, current.graphs)
        h_source, h_target = self.states(x, current.graphs)
        relations = self.layer.num_relations
        fine = isinstance(edge_type, Tensor) and edge_type.shape == edges.shape[1:]
        if not fine or bool(((edge_type < 0) | (edge_type >= relations)).any()):
            what = f"passes messages of {relations} relations, and none over edges that have another type"
            raise self.refusal(what, f"edge types from 0 to {relations - 1}, one for every edge")
        current.busy = True
        carried = tuple((edge_type == r).nonzero()[:, 0] for r in range(relations))
        k, take = len(current.calls), current.watch.take
        states = take(f"source states of call {k}", h_source), take(f"target states of call {k}", h_target)
        return _Group(edges, take(f"edge types of call {k}", edge_type), carried, states)

    def _begin_gated(self, current: Pass, recording: Recording, edges: Any, edge_type: Any) -> _Group:
        """Open the group of a gated pass: z of every edge, and what the baselines add."""
        k = current.next_layer(recording)
        call = recording.calls[k]
        if not isinstance(call, RelationalCall) or not torch.equal(call.edge_type, edge_type):
            what = "passes messages of other relations than in the unmasked pass"
            raise self.refusal(what, "edge types that do not depend on messages, and as many layers in every pass")
        assert call.carried is not None
        group = _Group(edges, edge_type, call.carried)
        z, b = recording.closing(k, current.gates, current.baselines)
        if z is not None and b is not None:
            rows = filled(z, b, (call.width,))
            rows = (rows if call.share is None else call.share * rows).expand(-1, call.width)
            group.addition = rows.new_zeros(recording.graphs.num_nodes, call.width).index_add(0, call.target, rows)
        if z is not None:
            loops = len(edge_type) - len(z)  # that were appended: they stay open
            group.gates = torch.cat([z, z.new_ones(loops)]) if loops else z
        return group

    def _on_propagate(self, layer: MessagePassing, inputs: tuple[Any, ...]) -> None:
        self.refuse_encoding()
        current = self.session.current
        if current is None:
            return
        group, (edges, _, kwargs) = self._group, inputs
        if group is None:
            raise self.refusal("runs without its hooks", "layer(x, edge_index, edge_type), not layer.forward(...)")
        if kwargs.get("edge_type_ptr") is not None:
            what = "passes messages in the order of their relations, by pyg_lib"
            raise self.refusal(what, "torch_geometric.backend.use_segment_matmul = False, or FastRGCNConv")
        r = group.number
        group.number += 1
        if current.recording is None:
            self.refuse_other_edges(group, r, edges)

    def refuse_other_edges(self, group: _Group, r: int, edges: Tensor) -> None:
        """Raise UnsupportedModelError unless call ``r`` carries the edges of relation ``r``."""
        if r >= len(group.carried) or not torch.equal(edges, group.edges[:, group.carried[r]]):
            what = f"passes other messages in call {r} than those of relation {r}"
            raise self.refusal(what, "RGCNConv as it is, or FastRGCNConv")

    def _on_message(self, layer: MessagePassing, inputs: tuple[Any, ...], messages: Tensor) -> Tensor | None:
        current, group = self.session.current, self._group
        if current is None or group is None:
            return None
        edges = group.carried[group.number - 1]
        if current.recording is not None:
            return None if group.gates is None else kept(group.gates[edges], messages)
        self.check_messages(messages, len(edges))
        group.sent.append(messages)
        return None

    def _on_propagated(self, layer: MessagePassing, inputs: tuple[Any, ...], output: Tensor) -> None:
        current, group = self.session.current, self._group
        if current is not None and current.recording is None and group is not None and len(group.sent) < group.number:
            raise self.refusal("fuses messages and aggregation", "edge_index as a plain (2, E) tensor")

    def _on_output(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        current, group, self._group = self.session.current, self._group, None
        if current is None or group is None:
            return None
        if current.recording is not None:
            return output if group.addition is None else output + group.addition
        assert group.states is not None
        current.calls.append(
            RelationalCall(
                self._joined(group),
                *group.states,
                *self.ends(current.graphs),
                self.layer.out_channels,
                group.carried,
                edge_type=group.edge_type,
                share=self._share(group, current),
            )
        )
        current.busy = False
        return None

    def _joined(self, group: _Group) -> Tensor:
        """Return the messages W_r h_u of all calls, ``(E + S, D)``, in the order of the edges."""
        layer = self.layer
        weight, inputs = layer.weight, layer.in_channels_l
        if layer.num_bases is not None:
            weight = (layer.comp @ weight.view(layer.num_bases, -1)).view(layer.num_relations, inputs, -1)
        if layer.num_blocks is None:
            sent = [messages @ weight[r] for r, messages in enumerate(group.sent)]
        else:
            blocks = (m.view(-1, layer.num_blocks, inputs // layer.num_blocks) for m in group.sent)
            sent = [torch.einsum("ebi,bio->ebo", m, weight[r]).flatten(1) for r, m in enumerate(blocks)]
        return torch.cat(sent)[torch.cat(group.carried).argsort()]

    def _share(self, group: _Group, current: Pass) -> Tensor | None:
        """Return what one message counts in the mean of its relation at its node, ``(E, 1)``."""
        if isinstance(self.layer.aggr_module, SumAggregation):
            return None
        graphs, relations = current.graphs, self.layer.num_relations
        slot = group.edges[int(self.layer.flow == "source_to_target")] * relations + group.edge_type
        counts: Tensor = slot.bincount(minlength=graphs.num_nodes * relations)
        return counts[slot[: graphs.num_edges], None].to(group.sent[0].dtype).reciprocal()
