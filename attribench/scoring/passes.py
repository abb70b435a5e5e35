"""Several masked passes over one batch, and what is compared under each: metric, D*, predictions that stay.

Who needs the output under masks asks for it with ``yield``: what several ask for is made together, in one walk over the
batch, in which each part is recorded once and no pass is made twice.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from ..model.baseline import Baseline, part_of_baselines
from ..model.output import Output
from ..model.recording import Stream

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Masked:
    """A masked pass that is asked for.

    Args:
        mask: ``(L, E)`` or, where one mask serves all layers, ``(1, E)``: bool, or gates in [0, 1].
        baselines: b of Eq. 3 for every layer, as for :meth:`.Recording.forward`; zero where None.
    """

    mask: Tensor
    baselines: Sequence[Tensor | Baseline] | None = None


Asking: TypeAlias = Generator[Sequence[Masked], list[Tensor], T]
"""Makes a T of the outputs of passes that it asks for with ``yield``, as often as it likes."""


class _Walk:
    """The passes of one walk; none is made twice.

    Args:
        stream: the batch.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._asked: list[Masked] = []
        self._alike: dict[Hashable, list[int]] = {}

    def add(self, asked: Masked) -> int:
        """Return the number of a pass, which may be that of one that is made anyway."""
        mask = asked.mask
        shape = (self._stream.num_layers, self._stream.graphs.num_edges)
        if mask.shape not in (shape, (1, shape[1])):
            raise ValueError(f"expected masks of shape (L, E) = {shape} or {(1, shape[1])}; got {tuple(mask.shape)}")
        mask = mask.expand(shape)
        alike = self._alike.setdefault((mask.dtype, float(mask.sum()), id(asked.baselines)), [])
        for number in alike:
            if torch.equal(self._asked[number].mask, mask):
                return number
        alike.append(len(self._asked))
        self._asked.append(Masked(mask, asked.baselines))
        return alike[-1]

    def outputs(self) -> list[Tensor]:
        """Make all passes, part by part, and return their outputs."""
        stream, found = self._stream, [list[Tensor]() for _ in self._asked]
        for part, recording in stream.recordings() if found else ():
            for asked, parts in zip(self._asked, found, strict=True):
                gates = asked.mask[:, part.edges].to(stream.logits.dtype)
                own = part_of_baselines(asked.baselines, stream.graphs, part)
                parts.append(recording.logits if bool((gates == 1).all()) else recording.forward(gates, own))
        logits = [torch.cat(parts) for parts in found]
        if not all(bool(torch.isfinite(x).all()) for x in logits):
            raise ValueError(
                "expected a finite output under the mask; got NaN or infinity: guard divisions in the model"
            )
        return logits


@torch.no_grad()
def answered_together(stream: Stream, asking: Mapping[K, Asking[T]]) -> dict[K, T]:
    """Return what each makes of the outputs that it asks for; what all ask for next is made in one walk.

    Open gates leave every message as it is: where a mask is all 1, the original output is taken and no pass is made.

    Args:
        stream: the batch.
        asking: by who asks.

    Raises:
        ValueError: on masks of another shape, and where an output is not finite: what is compared with it is no number.
    """
    made: dict[K, T] = {}
    answers: dict[K, list[Tensor] | None] = dict.fromkeys(asking)
    while answers:
        walk, numbers = _Walk(stream), dict[K, list[int]]()
        for who, answer in answers.items():
            try:
                asked = next(asking[who]) if answer is None else asking[who].send(answer)
            except StopIteration as ended:
                made[who] = ended.value
            else:
                numbers[who] = [walk.add(one) for one in asked]
        outputs = walk.outputs()
        answers = {who: [outputs[number] for number in own] for who, own in numbers.items()}
    return {who: made[who] for who in asking}


def answered(stream: Stream, asking: Asking[T]) -> T:
    """Return what one makes of the outputs that it asks for; see :func:`answered_together`."""
    return answered_together(stream, {None: asking})[None]


def masked_passes(
    stream: Stream, masks: Sequence[Tensor], baselines: Sequence[Tensor | Baseline] | None = None
) -> list[Tensor]:
    """Return the output under each of S masks, in their order; see :class:`Masked` and :func:`answered_together`."""

    def asking() -> Asking[list[Tensor]]:
        return (yield [Masked(mask, baselines) for mask in masks])

    return answered(stream, asking())


@dataclass(frozen=True, eq=False)
class Effects:
    """What the original model's output becomes under S masks.

    Args:
        metric: ``(S,)`` float64, the task's metric (1 is best).
        unchanged: ``(S, G)`` bool, whether all predictions of a graph stay.
        divergence: ``(S, G)`` float64, D* of Eq. 5 in nats.
    """

    metric: Tensor
    unchanged: Tensor
    divergence: Tensor

    def __len__(self) -> int:
        """S."""
        return len(self.metric)

    def __getitem__(self, masks: slice) -> Effects:
        """Return the effects of some of the masks."""
        return Effects(self.metric[masks], self.unchanged[masks], self.divergence[masks])


def effects(
    stream: Stream,
    output: Output,
    labels: Tensor,
    masks: Sequence[Tensor],
    baselines: Sequence[Tensor | Baseline] | None = None,
) -> Asking[Effects]:
    """Return what masks do to predictions; at most one masked pass for each.

    Args:
        stream: the batch.
        output: what its outputs mean.
        labels: one per unit of output, for the metric.
        masks, baselines: as for :class:`Masked`.
    """
    graphs, logits = stream.graphs, (yield [Masked(mask, baselines) for mask in masks])
    return Effects(
        torch.tensor([output.metric(x, labels, graphs) for x in logits], dtype=torch.float64),
        torch.stack([output.unchanged(stream.logits, x, graphs) for x in logits]),
        torch.stack([output.divergence(stream.logits, x, graphs) for x in logits]).double(),
    )
