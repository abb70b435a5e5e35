"""Several masked passes over one batch, and what is compared under each: metric, D*, predictions that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.baseline import Baseline, part_of_baselines
from ..model.output import Output
from ..model.recording import Stream


@torch.no_grad()
def masked_passes(
    stream: Stream, masks: Sequence[Tensor], baselines: Sequence[Tensor | Baseline] | None = None
) -> list[Tensor]:
    """Return the output under each of S masks, in their order.

    A part of a large batch is recorded once for all masks, where S calls of :meth:`Stream.forward` record it S times.
    Open gates leave every message as it is: where a mask is all 1, the original output is taken and no pass is made.

    Args:
        stream: the batch.
        masks: ``(L, E)`` or, where one mask serves all layers, ``(1, E)``: bool, or gates in [0, 1].
        baselines: b of Eq. 3 for every layer, as for :meth:`.Recording.forward`; zero where None.

    Raises:
        ValueError: on masks of another shape, and where an output is not finite: what is compared with it is no number.
    """
    shape = (stream.num_layers, stream.graphs.num_edges)
    for mask in masks:
        if mask.shape not in (shape, (1, shape[1])):
            raise ValueError(f"expected masks of shape (L, E) = {shape} or {(1, shape[1])}; got {tuple(mask.shape)}")
    outputs: list[list[Tensor]] = [[] for _ in masks]
    for part, recording in stream.recordings():
        own = part_of_baselines(baselines, stream.graphs, part)
        for mask, parts in zip(masks, outputs, strict=True):
            gates = mask[:, part.edges].expand(shape[0], -1).to(stream.logits.dtype)
            parts.append(recording.logits if bool((gates == 1).all()) else recording.forward(gates, own))
    logits = [torch.cat(parts) for parts in outputs]
    if not all(bool(torch.isfinite(x).all()) for x in logits):
        raise ValueError("expected a finite output under the mask; got NaN or infinity: guard divisions in the model")
    return logits


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
) -> Effects:
    """Return what masks do to predictions; at most one masked pass for each (see :func:`masked_passes`).

    Args:
        stream: the batch.
        output: what its outputs mean.
        labels: one per unit of output, for the metric.
        masks, baselines: as for :func:`masked_passes`.
    """
    graphs, logits = stream.graphs, masked_passes(stream, masks, baselines)
    return Effects(
        torch.tensor([output.metric(x, labels, graphs) for x in logits], dtype=torch.float64),
        torch.stack([output.unchanged(stream.logits, x, graphs) for x in logits]),
        torch.stack([output.divergence(stream.logits, x, graphs) for x in logits]).double(),
    )
