"""Gates: the context in which a model is recorded and gated, and is left as it was found.

A message m becomes z * m + (1 - z) * b (Eq. 3, in ``recording``). Gate k belongs to the k-th *call* of one forward pass
that passes messages over all edges, not to the k-th module. How messages of a kind of layer are seen and changed is its
driver's (``drivers``); what cannot be gated exactly is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .driver import Driver, Pass, Session
from .driver_list import drivers
from .graphs import LEVELS, GraphBatch
from .integrity import evaluating
from .isolation import Watch, copied
from .model import GraphModel
from .recording import Recording as Recording
from .recording import Stream as Stream
from .refusals import UnsupportedModelError as UnsupportedModelError
from .refusals import compiled

_OF_GRAPHS = "graphs: "


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
            f"expected a model that leaves the graphs as they are; {model.called} changes {name!r} in place: "
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
        self.forward_passes = 0
        #: The layers that pass messages; known once it is entered.
        self.layers: list[nn.Module] = []
        self._drivers: list[Driver] = []
        self._session = Session(replay)
        self._handles: list[RemovableHandle] = []
        self._evaluating = evaluating(model)

    @property
    def send_vectors(self) -> bool:
        """Whether some layer sends each message as a vector; known once it is entered."""
        return any(driver.sends_vectors for driver in self._drivers)

    def __enter__(self) -> Self:
        self._evaluating = evaluating(self.model)
        try:
            reason = compiled(self.model)
            if reason is not None:
                raise UnsupportedModelError(reason)
            self._drivers = drivers(self.model, self._session)
            self.layers = [driver.layer for driver in self._drivers]
            if not self.layers:
                raise UnsupportedModelError(
                    "expected a model with PyG MessagePassing layers; got none in "
                    f"{self.model.called}: pass its messages with torch_geometric.nn.MessagePassing, or by adjacency "
                    "matrices with attribench.AdjacencyLayer"
                )
            self._evaluating.__enter__()
            for driver in self._drivers:
                driver.attach(self._handles)
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
        current = Pass(graphs)
        recording = self._record(current)
        changed = current.watch.changed()
        refuse_changed_graphs(self.model, changed)
        return self._record(Pass(graphs, watch=Watch(changed))) if changed else recording

    def _record(self, current: Pass) -> Recording:
        graphs, own = current.graphs, list[Tensor]()
        watch_graphs(current.watch, graphs)
        handles = [m.register_forward_hook(lambda *args: own.append(args[2])) for m in self.model.gate_modules()]
        try:
            self._session.encoding = True
            state = self.model.encode(graphs)
            self._session.encoding = False
            # A state that decode() changes is handed out as a copy, now and in every gated pass.
            fresh = current.watch.take("state", state)
            logits = self._run(current, fresh if fresh is state else copied(state))
        finally:
            self._session.encoding = False
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

    def _run(self, current: Pass, state: Any) -> Tensor:
        self._session.current = current
        self.forward_passes += 1
        try:
            return self.model.decode(current.graphs, state)
        finally:
            self._session.current = None
            for driver in self._drivers:
                driver.reset()
