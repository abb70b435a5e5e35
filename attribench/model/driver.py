"""What it takes to drive a kind of layer: the driver's interface, and the pass that drivers take part in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from torch.utils.hooks import RemovableHandle

from .baseline import Baseline
from .call import Call
from .graphs import GraphBatch
from .isolation import Watch
from .refusals import UnsupportedModelError, refusal

if TYPE_CHECKING:
    from .recording import Gate, Recording


@dataclass(eq=False)
class Pass:
    """State of the forward pass that the drivers are taking part in.

    Args:
        graphs: the batch.
        recording: the unmasked pass, where this is a gated one; None while the unmasked pass is recorded.
        gates, baselines: of the gated pass, as for :meth:`Recording.closing`.
        calls: what the layers read and sent so far, in the unmasked pass.
        index: how many layers were gated so far, in a gated pass.
        layer_input: what the layer that was entered last was given as x.
        busy: whether a layer has begun to pass messages and none was seen yet.
        watch: takes note of what is kept.
    """

    graphs: GraphBatch
    recording: Recording | None = None
    gates: Gate | None = None
    baselines: Sequence[Baseline] | None = None
    calls: list[Call] = field(default_factory=list)
    index: int = 0
    layer_input: Any = None
    busy: bool = False
    watch: Watch = field(default_factory=Watch)

    def next_layer(self, recording: Recording) -> int:
        """Return k, the layer whose messages come next in a gated pass."""
        if self.index >= recording.num_layers:
            raise UnsupportedModelError(
                f"expected {recording.num_layers} message-passing calls as in the unmasked pass; got more"
            )
        self.index += 1
        return self.index - 1


@dataclass(eq=False)
class Session:
    """What the drivers of a model share while its gates are entered.

    Args:
        replay: whether the first layer's messages may be taken from the recording.
        current: the pass that runs now.
        encoding: whether ``encode()`` runs, in which no message may be sent.
    """

    replay: bool = False
    current: Pass | None = None
    encoding: bool = False


class Driver(ABC):
    """Sees and changes the messages of one layer, from when it is attached until its handles are removed.

    In the unmasked pass (``session.current.recording`` is None) it appends a :class:`Call` for every time that the
    layer passes messages over all edges. In a gated pass it asks ``next_layer()`` for k and applies Eq. 3 with
    ``recording.closing(k, ...)``. The rest of the harness knows no layer.

    Args:
        layer: that is driven.
        session: shared by the drivers of a model.
    """

    #: Whether the calls give each message as a vector.
    sends_vectors: ClassVar[bool] = True

    def __init__(self, layer: nn.Module, session: Session) -> None:
        self.layer = layer
        self.session = session

    @classmethod
    def fits(cls, layer: nn.Module) -> bool:
        """Say whether a layer of the driver's type is driven by it; the next in the list is asked otherwise."""
        return True

    @abstractmethod
    def attach(self, handles: list[RemovableHandle]) -> None:
        """Register hooks on the layer, and append their handles one by one."""

    @abstractmethod
    def silence(self, handles: list[RemovableHandle]) -> None:
        """Have the layer send zeros in every pass, until the hooks' handles, which are appended, are removed.

        So it is tried whether anything else goes over edges; see :func:`~attribench.examining.strays.find_leak`.
        """

    def reset(self) -> None:  # noqa: B027 - optional
        """Forget the pass, which is over or has failed, and give the layer back what it was lent."""

    def refusal(self, what: str, remedy: str) -> UnsupportedModelError:
        """Return the error that refuses the layer."""
        return UnsupportedModelError(refusal(type(self.layer).__name__, what, remedy))
