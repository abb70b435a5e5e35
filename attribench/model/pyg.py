"""The driver of PyG's layers: hooks on ``propagate`` and ``message``, for layers that send all messages in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import is_sparse

from .call import Call
from .driver import Driver, Pass, Session
from .graphs import GraphBatch
from .refusals import UnsupportedModelError, other_edges


class PyGDriver(Driver):
    """Drives a layer whose ``propagate`` sends one message per edge; every call of ``propagate`` is a layer of its own.

    Layers are left as they are: PyG's message hook sees the messages and may return others.
    """

    layer: MessagePassing

    def __init__(self, layer: nn.Module, session: Session) -> None:
        super().__init__(layer, session)
        self._states: tuple[Tensor, Tensor] | None = None
        self._replaced: tuple[Any] | None = None

    def attach(self, handles: list[RemovableHandle]) -> None:
        """Register hooks on the layer, unless a message hook of the user's is there.

        Raises:
            UnsupportedModelError: for such a hook: it sees messages that no gate has changed, and can pass them on.
        """
        layer = self.layer
        if not all(self.is_ours(hook) for hook in layer._message_forward_hooks.values()):
            raise UnsupportedModelError(
                f"expected no hooks on the messages of layers; {type(layer).__name__} has one, which sees messages "
                "that no gate has changed, and may pass them on: move it into message()"
            )
        handles.append(layer.register_forward_pre_hook(self._on_layer, with_kwargs=True))
        handles.append(layer.register_propagate_forward_pre_hook(self._on_propagate))
        handles.append(layer.register_message_forward_hook(self._on_message))
        handles.append(layer.register_propagate_forward_hook(self._on_propagated))

    def silence(self, handles: list[RemovableHandle]) -> None:
        """Set messages to zero, also those of self-loops that a layer appends: a softmax weighs them, too."""
        handles.append(self.layer.register_message_forward_hook(lambda _layer, _inputs, messages: messages * 0))

    def reset(self) -> None:
        """Forget the pass; give the layer its own ``message`` back."""
        self._states = None
        if self._replaced is not None:
            (own,) = self._replaced
            self._replaced = None
            del self.layer.__dict__["message"]
            if own is not None:
                self.layer.__dict__["message"] = own

    def _on_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current = self.session.current
        if current is not None and current.recording is None:
            current.layer_input = args[0] if args else kwargs.get("x")

    def _on_propagate(self, layer: MessagePassing, inputs: tuple[Any, ...]) -> None:
        current = self.session.current
        self.refuse_encoding()
        if current is None:
            return
        if current.recording is None:
            self._begin(current, *inputs)
        elif self.session.replay and current.index == 0:
            # The first layer's messages do not depend on any gate: take them from the recording.
            messages = current.recording.messages(0)
            self._replaced = (layer.__dict__.get("message"),)
            layer.__dict__["message"] = lambda **_: messages

    def _begin(self, current: Pass, edge_index: Any, _: Any, kwargs: dict[str, Any]) -> None:
        """Check that a call's messages are those of the batch's edges, and keep the states that it reads."""
        self.refuse_several(current)
        self.check_edges(edge_index, current.graphs)
        given, current.layer_input = current.layer_input, None
        self._states = self.states(kwargs.get("x") if given is None else given, current.graphs)
        current.busy = True

    def _on_message(self, layer: MessagePassing, inputs: tuple[Any, ...], messages: Tensor) -> Tensor | None:
        current = self.session.current
        if current is None:
            return None
        recording = current.recording
        if recording is not None:
            self.reset()
            return recording.gate(current.next_layer(recording), messages, current.gates, current.baselines)
        if self._states is None:
            raise self.refusal("sends messages more than once per call", "decomposed_layers=1")
        source, target = self.ends(current.graphs)
        self.check_messages(messages, source.numel())
        k, take = len(current.calls), current.watch.take
        h_source, h_target = self._states
        current.calls.append(
            Call(
                take(f"messages of call {k}", messages),
                take(f"source states of call {k}", h_source),
                take(f"target states of call {k}", h_target),
                source,
                target,
                messages.shape[1:].numel(),
            )
        )
        self._states, current.busy = None, False
        return None

    def _on_propagated(self, layer: MessagePassing, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self.session.current is not None and self._states is not None:
            raise self.refusal("fuses messages and aggregation", "edge_index as a plain (2, E) tensor")

    def ends(self, graphs: GraphBatch) -> tuple[Tensor, Tensor]:
        """Return the nodes ``(E,)`` that send and that receive, as the layer's ``flow`` says."""
        source, target = graphs.edge_index if self.layer.flow == "source_to_target" else graphs.edge_index.flip(0)
        return source, target

    @staticmethod
    def is_ours(hook: Any) -> bool:
        """Say whether a hook is some driver's: gates may be entered within others."""
        return isinstance(getattr(hook, "__self__", None), Driver)

    def refuse_encoding(self) -> None:
        """Raise UnsupportedModelError in ``encode()``."""
        if self.session.encoding:
            raise UnsupportedModelError(
                f"expected no message before decode(); {type(self.layer).__name__} sends some in encode(), where no "
                "gate can reach them: move it to decode()"
            )

    def refuse_several(self, current: Pass) -> None:
        """Raise UnsupportedModelError where a call begins within another one, or is made in several parts."""
        if current.busy or self.layer.decomposed_layers > 1:
            raise self.refusal("sends messages more than once per call", "decomposed_layers=1")

    def check_edges(self, edge_index: Any, graphs: GraphBatch) -> None:
        """Raise UnsupportedModelError unless the edges are the batch's, in their order, before any self-loops."""
        if is_sparse(edge_index) or (isinstance(edge_index, EdgeIndex) and self.layer.fuse):
            what = "got a sparse edge_index and may skip messages"
            raise self.refusal(what, "edge_index as a plain (2, E) tensor")
        why = other_edges(self.layer, torch.as_tensor(edge_index), graphs)
        if why is not None:
            raise self.refusal(*why)

    def states(self, state: Any, graphs: GraphBatch) -> tuple[Tensor, Tensor]:
        """Return h_source and h_target ``(N, H)`` from what a layer reads as x, one tensor or two."""
        h_source, h_target = state if isinstance(state, tuple | list) and len(state) == 2 else (state, state)
        h_target = h_source if h_target is None else h_target
        for h in (h_source, h_target):
            if isinstance(h, Tensor) and h.is_floating_point() and h.dim() and len(h) != graphs.num_nodes:
                what = f"reads the states of {len(h)} nodes where the graphs have {graphs.num_nodes}"
                raise self.refusal(what, "pooling after the last layer only, and edges between nodes of one kind")
            if not (isinstance(h, Tensor) and h.is_floating_point() and h.dim()):
                what = "does not read node states x of shape (N, H)"
                raise self.refusal(what, "floating-point node states as x")
        return h_source, h_target

    def check_messages(self, messages: Any, expected: int) -> None:
        """Raise UnsupportedModelError unless there is one message for each of ``expected`` edges at least."""
        if not isinstance(messages, Tensor) or messages.dim() < 2 or len(messages) < expected:
            got = tuple(messages.shape) if isinstance(messages, Tensor) else type(messages).__name__
            raise self.refusal(f"has messages of shape {got} for {expected} edges", "messages of shape (E, ...)")
        if self.layer.node_dim % messages.dim() != 0:
            raise self.refusal(f"has its nodes in dimension {self.layer.node_dim}", "node_dim=0 or messages (E, D)")
        if messages.is_inference():
            raise self.refusal("runs under torch.inference_mode()", "torch.no_grad() in the model, if anything")
