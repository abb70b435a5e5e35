"""Gates: the one intervention on messages (Eq. 3), for every method.

A message m becomes z * m + (1 - z) * b. Gate k belongs to the k-th message-passing *call* of one forward pass, not to
the k-th module. Ordinary PyG layers are driven through their own hooks; what cannot be gated exactly is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import is_sparse

from ..base.errors import UserError
from .graphs import LEVELS, GraphBatch, Part
from .integrity import evaluating
from .isolation import Watch, copied
from .model import GraphModel
from .refusals import compiled, other_edges, refusal

Gate = Tensor | Sequence[Tensor | None]

_OF_GRAPHS = "graphs: "


class UnsupportedModelError(UserError):
    """A model whose messages cannot be gated exactly; says what to use instead."""


@dataclass(frozen=True, eq=False)
class Call:
    """What one message-passing call read and sent in the unmasked pass.

    Args:
        messages: ``(E + S, ...)``, the messages of the E edges and of S self-loops that the layer appended.
        h_source, h_target: ``(N, H)``, the layer's inputs h(k-1) by source and by target node.
        source, target: ``(E,)``, the nodes u and v of every edge.
    """

    messages: Tensor
    h_source: Tensor
    h_target: Tensor
    source: Tensor
    target: Tensor

    @property
    def width(self) -> int:
        """D, the number of values in one message."""
        return self.messages[0].numel() if len(self.messages) else int(torch.tensor(self.messages.shape[1:]).prod())

    def flat_messages(self) -> Tensor:
        """Return the messages of the real edges as ``(E, D)``."""
        return self.messages[: self.source.numel()].reshape(self.source.numel(), self.width)

    def inputs(self) -> Tensor:
        """Return [h_u, h_v, m] of Eq. 6, ``(E, 2 H + D)``, all from before the aggregation: no look-ahead."""
        h_u, h_v = self.h_source[self.source].flatten(1), self.h_target[self.target].flatten(1)
        return torch.cat([h_u, h_v, self.flat_messages()], dim=-1)


@dataclass(eq=False)
class _Pass:
    """State of the forward pass that the hooks are taking part in."""

    graphs: GraphBatch
    recording: Recording | None = None
    gates: Gate | None = None
    baselines: Sequence[Tensor] | None = None
    calls: list[Call] = field(default_factory=list)
    index: int = 0
    layer_input: Any = None
    pending: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    replayed: tuple[MessagePassing, Any] | None = None
    watch: Watch = field(default_factory=Watch)

    def end_replay(self) -> None:
        """Give the layer whose messages are replayed its own ``message`` back."""
        if self.replayed is not None:
            layer, own = self.replayed
            self.replayed = None
            del layer.__dict__["message"]
            if own is not None:
                layer.__dict__["message"] = own


def watch_graphs(watch: Watch, graphs: GraphBatch) -> None:
    """Take note of the tensors of a batch."""
    watch.add(f"{_OF_GRAPHS}edge_index", graphs.edge_index)
    for level in LEVELS:
        for name, value in getattr(graphs, level).items():
            watch.add(f"{_OF_GRAPHS}{name}", value)


def refuse_changed_graphs(model: nn.Module, changed: Sequence[str]) -> None:
    """Raise UnsupportedModelError where a tensor of the graphs is among what a pass has changed."""
    name = next((name.removeprefix(_OF_GRAPHS) for name in changed if name.startswith(_OF_GRAPHS)), None)
    if name is not None:
        raise UnsupportedModelError(
            f"expected a model that leaves the graphs as they are; {type(model).__name__} changes {name!r} in place: "
            "write h = h + ... in place of h += ..., or start from a clone()"
        )


class Gates:
    """Context manager through which a model is recorded and gated; the model is left exactly as it was found.

    Inside it the parameters are frozen and the model is in evaluation mode. On exit, also after an error, no hook is
    left, and ``requires_grad`` and the train/eval mode of every part are as before.

    Args:
        model: the model.
        replay: whether the first call's messages, which no gate changes, may be taken from the recording, so that its
            ``message()`` is not run again. That is right where ``message()`` leaves nothing behind that the model
            reads later: see :func:`~attribench.examining.examination.examine`, which finds out.

    Example::

        with Gates(model) as gates:
            recording = gates.record(graphs)         # the unmasked pass
            logits = recording.forward(z)            # the masked pass, z (L, E)
    """

    def __init__(self, model: GraphModel, *, replay: bool = False) -> None:
        self.model = model
        self.replay = replay
        self.forward_passes = 0
        self._pass: _Pass | None = None
        self._encoding = False
        #: The layers that pass messages; known once it is entered.
        self.layers: list[MessagePassing] = []
        self._handles: list[Any] = []
        self._evaluating = evaluating(model)

    def __enter__(self) -> Self:
        self._evaluating = evaluating(self.model)
        try:
            reason = compiled(self.model)
            if reason is not None:
                raise UnsupportedModelError(reason)
            self.layers = [module for module in self.model.modules() if isinstance(module, MessagePassing)]
            if not self.layers:
                raise UnsupportedModelError(
                    "expected a model with PyG MessagePassing layers; got none in "
                    f"{type(self.model).__name__}: pass its messages with torch_geometric.nn.MessagePassing"
                )
            self._evaluating.__enter__()
            for layer in self.layers:
                self._handles += [
                    layer.register_forward_pre_hook(self._on_layer, with_kwargs=True),
                    layer.register_propagate_forward_pre_hook(self._on_propagate),
                    layer.register_message_forward_hook(self._on_message),
                    layer.register_propagate_forward_hook(self._on_propagated),
                ]
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._evaluating.__exit__()

    @torch.no_grad()
    def record(self, graphs: GraphBatch) -> Recording:
        """Run the unmasked pass and keep what gates cannot change, as it was when it was seen.

        A model that works in place changes what it has handed out. Version counters tell; what was changed is then
        copied, in a second pass and before every gated one.

        Raises:
            UnsupportedModelError: when a layer's messages are not one per edge, in the order of the edges, or the model
                changes the graphs.
        """
        current = _Pass(graphs)
        recording = self._record(current)
        changed = current.watch.changed()
        refuse_changed_graphs(self.model, changed)
        return self._record(_Pass(graphs, watch=Watch(changed))) if changed else recording

    def _record(self, current: _Pass) -> Recording:
        graphs, own = current.graphs, list[Tensor]()
        watch_graphs(current.watch, graphs)
        handles = [m.register_forward_hook(lambda *args: own.append(args[2])) for m in self.model.gate_modules()]
        try:
            self._encoding = True
            state = self.model.encode(graphs)
            self._encoding = False
            # A state that decode() changes is handed out as a copy, now and in every gated pass.
            fresh = current.watch.take("state", state)
            logits = self._run(current, fresh if fresh is state else copied(state))
        finally:
            self._encoding = False
            for handle in handles:
                handle.remove()
        if not current.calls:
            raise UnsupportedModelError("expected at least one message-passing call in decode(); got none")
        if own and [gate.numel() for gate in own] != [graphs.num_edges] * len(current.calls):
            raise UnsupportedModelError(
                f"expected {graphs.num_edges} gates of the model's own in each of {len(current.calls)} calls; got "
                f"{[gate.numel() for gate in own]}: check gate_modules()"
            )
        own_gates = torch.stack([gate.reshape(-1) for gate in own]) if own else None
        watch = current.watch
        logits = logits.clone() if isinstance(logits, Tensor) else logits  # the model may write into it again
        return Recording(self, graphs, state, logits, tuple(current.calls), own_gates, frozenset(watch.copies))

    def stream(self, graphs: GraphBatch, max_edges: int) -> Stream:
        """Run the unmasked pass over a batch of any size, in parts of at most ``max_edges`` edges."""
        return Stream(self, graphs, max_edges)

    def _run(self, current: _Pass, state: Any) -> Tensor:
        self._pass = current
        self.forward_passes += 1
        try:
            return self.model.decode(current.graphs, state)
        finally:
            self._pass = None
            current.end_replay()

    def _on_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._pass is not None and self._pass.recording is None:
            self._pass.layer_input = args[0] if args else kwargs.get("x")

    def _on_propagate(self, layer: MessagePassing, inputs: tuple[Any, ...]) -> None:
        current = self._pass
        if self._encoding:
            raise UnsupportedModelError(
                f"expected no message before decode(); {type(layer).__name__} sends some in encode(), where no gate "
                "can reach them: move it to decode()"
            )
        if current is None:
            return
        if current.recording is None:
            current.pending = _endpoints(layer, inputs, current)
        elif self.replay and current.index == 0 and len(layer._message_forward_hooks) == 1:
            # The first call's messages do not depend on any gate: take them from the recording. A hook of the user's
            # would act on them a second time; with one, the messages are computed.
            messages = current.recording.messages(0)
            current.replayed = (layer, layer.__dict__.get("message"))
            layer.__dict__["message"] = lambda **_: messages

    def _on_message(self, layer: MessagePassing, inputs: tuple[Any, ...], messages: Tensor) -> Tensor | None:
        current = self._pass
        if current is None:
            return None
        if current.recording is None:
            if current.pending is None:
                raise _refusal(layer, "sends messages more than once per call", "decomposed_layers=1")
            h_source, h_target, source, target = current.pending
            expected = source.numel()
            if not isinstance(messages, Tensor) or messages.dim() < 2 or len(messages) < expected:
                got = tuple(messages.shape) if isinstance(messages, Tensor) else type(messages).__name__
                raise _refusal(layer, f"has messages of shape {got} for {expected} edges", "messages of shape (E, ...)")
            if layer.node_dim % messages.dim() != 0:
                raise _refusal(layer, f"has its nodes in dimension {layer.node_dim}", "node_dim=0 or messages (E, D)")
            if messages.is_inference():
                raise _refusal(layer, "runs under torch.inference_mode()", "torch.no_grad() in the model, if anything")
            k, take = len(current.calls), current.watch.take
            current.calls.append(
                Call(
                    take(f"messages of call {k}", messages),
                    take(f"source states of call {k}", h_source),
                    take(f"target states of call {k}", h_target),
                    source[:expected],
                    target,
                )
            )
            current.pending = None
            return None
        current.end_replay()
        if current.index >= len(current.recording.calls):
            raise UnsupportedModelError(
                f"expected {len(current.recording.calls)} message-passing calls as in the unmasked pass; got more"
            )
        gated = current.recording.gate(current.index, messages, current.gates, current.baselines)
        current.index += 1
        return gated

    def _on_propagated(self, layer: MessagePassing, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self._pass is not None and self._pass.pending is not None:
            raise _refusal(layer, "fuses messages and aggregation", "edge_index as a plain (2, E) tensor")


@dataclass(frozen=True, eq=False)
class Recording:
    """The unmasked pass over a batch, from which gated passes start.

    Args:
        logits: the original model's output.
        calls: what each of the L message-passing calls read and sent.
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
        """Return the messages of call ``k`` for a pass to use, which may change them in place."""
        messages = self.calls[k].messages
        return messages.clone() if f"messages of call {k}" in self.changed else messages

    @property
    def num_layers(self) -> int:
        """L, the number of message-passing calls in one forward pass."""
        return len(self.calls)

    def ones(self) -> Tensor:
        """Return open gates ``(L, E)``."""
        return self.logits.new_ones(self.num_layers, self.graphs.num_edges)

    def forward(
        self, gates: Gate, baselines: Sequence[Tensor] | None = None, *, baselines_per_edge: bool = False
    ) -> Tensor:
        """Run the gated pass and return its output.

        Args:
            gates: ``(L, E)``, or one ``(E,)`` tensor per call, None where all are open.
            baselines: b of Eq. 3 per call, ``(D,)`` or one per graph ``(G, D)``; D may be 1; zero where None.
            baselines_per_edge: whether they are ``(E, D)`` instead.
        """
        for name, given in (("gates", gates), ("baselines", baselines)):
            if given is not None and len(given) != self.num_layers:
                raise ValueError(f"expected {name} for {self.num_layers} calls; got {len(given)}")
        if baselines is not None and not baselines_per_edge:
            baselines = [b[self.graphs.edge_graph] if b.dim() == 2 else b[None] for b in baselines]
        current = _Pass(self.graphs, self, gates, baselines)
        logits = self.gates._run(current, copied(self.state) if "state" in self.changed else self.state)
        if current.index != self.num_layers:
            raise UnsupportedModelError(
                f"expected {self.num_layers} message-passing calls as in the unmasked pass; got {current.index}"
            )
        return logits

    def gate(self, k: int, messages: Tensor, gates: Gate | None, baselines: Sequence[Tensor] | None) -> Tensor:
        """Apply Eq. 3 to the messages of call ``k``, with baselines ``(1, D)`` or ``(E, D)``.

        Self-loops that the layer appended stay open.
        """
        z = None if gates is None else gates[k]
        if z is None:
            return messages
        num_edges = self.graphs.num_edges
        if len(messages) != len(self.calls[k].messages) or z.shape != (num_edges,):
            raise ValueError(f"expected {num_edges} gates for call {k}; got {tuple(z.shape)}")
        z = z.reshape(-1, *(1 for _ in messages.shape[1:]))
        gated = z * messages[:num_edges]
        if baselines is not None:
            b = baselines[k]
            narrow = b.shape[1] == 1  # one scalar for all D values of a message
            b = b.reshape(-1, *(1 for _ in messages.shape[1:])) if narrow else b.reshape(-1, *messages.shape[1:])
            gated = gated + (1 - z) * b
        return gated if len(messages) == num_edges else torch.cat([gated, messages[num_edges:]])


class Stream:
    """Passes over a batch of any size, a part at a time, so that memory does not grow with the batch.

    A batch of one part is recorded once; the parts of a larger one are recorded anew for every pass.

    Args:
        gates: the entered gates of the model.
        graphs: the batch.
        max_edges: the most edges in a part; a graph that has more is a part by itself.
    """

    def __init__(self, gates: Gates, graphs: GraphBatch, max_edges: int) -> None:
        self.graphs = graphs
        self._gates = gates
        self._parts = list(graphs.parts(max_edges))
        first = gates.record(self._parts[0].batch)
        self._only = first if len(self._parts) == 1 else None
        self.num_layers = first.num_layers
        #: The original model's output over the whole batch.
        self.logits = torch.cat([first.logits, *(gates.record(part.batch).logits for part in self._parts[1:])])

    def recordings(self) -> Iterator[tuple[Part, Recording]]:
        """Yield every part with its unmasked pass."""
        for part in self._parts:
            yield part, self._gates.record(part.batch) if self._only is None else self._only

    def ones(self) -> Tensor:
        """Return open gates ``(L, E)``."""
        return self.logits.new_ones(self.num_layers, self.graphs.num_edges)

    def forward(self, gates: Tensor, baselines: Sequence[Tensor] | None = None) -> Tensor:
        """Run the gated pass; gates ``(L, E)`` and baselines, ``(D,)`` or ``(G, D)``, as in :meth:`Recording.forward`.

        Runs without gradients where there is more than one part.
        """
        if self._only is not None:
            return self._only.forward(gates, baselines)
        with torch.no_grad():
            return torch.cat(
                [
                    recording.forward(gates[:, part.edges], part_of_baselines(baselines, part.graphs))
                    for part, recording in self.recordings()
                ]
            )


def part_of_baselines(baselines: Sequence[Tensor] | None, graphs: slice) -> list[Tensor] | None:
    """Return the baselines of a run of graphs, from those of a whole batch."""
    return None if baselines is None else [b if b.dim() == 1 else b[graphs] for b in baselines]


def _refusal(layer: MessagePassing, what: str, remedy: str) -> UnsupportedModelError:
    return UnsupportedModelError(refusal(type(layer).__name__, what, remedy))


def _endpoints(layer: MessagePassing, inputs: tuple[Any, ...], current: _Pass) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check that a call's messages are those of the batch's edges; return h_source, h_target, source, target."""
    edge_index, _, kwargs = inputs
    graphs = current.graphs
    if current.pending is not None or layer.decomposed_layers > 1:
        raise _refusal(layer, "sends messages more than once per call", "decomposed_layers=1")
    if is_sparse(edge_index) or (isinstance(edge_index, EdgeIndex) and layer.fuse):
        raise _refusal(layer, "got a sparse edge_index and may skip messages", "edge_index as a plain (2, E) tensor")
    why = other_edges(layer, torch.as_tensor(edge_index), graphs)
    if why is not None:
        raise _refusal(layer, *why)
    given, current.layer_input = current.layer_input, None
    state = kwargs.get("x") if given is None else given
    h_source, h_target = state if isinstance(state, tuple | list) and len(state) == 2 else (state, state)
    h_target = h_source if h_target is None else h_target
    for h in (h_source, h_target):
        if isinstance(h, Tensor) and h.is_floating_point() and h.dim() and len(h) != graphs.num_nodes:
            what = f"reads the states of {len(h)} nodes where the graphs have {graphs.num_nodes}"
            raise _refusal(layer, what, "pooling after the last layer only, and edges between nodes of one kind")
        if not (isinstance(h, Tensor) and h.is_floating_point() and h.dim()):
            raise _refusal(layer, "does not read node states x of shape (N, H)", "floating-point node states as x")
    source, target = graphs.edge_index if layer.flow == "source_to_target" else graphs.edge_index.flip(0)
    return h_source, h_target, source, target
