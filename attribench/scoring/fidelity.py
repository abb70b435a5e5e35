"""Do predictions stay when the mask, its complement, or the gold alone is kept? fidelity+/- in the words of PyG.

The definitions are those of ``torch_geometric.explain.metric`` (GraphFramEx, Amara et al. 2022; GEF, Agarwal et al.
2023), and on one layer, or with one mask for all layers, ``fidelity`` gives the same figures. Seen on PyG 2.8.1:

- PyG multiplies the messages of *all* layers by one edge mask ``(E,)``; here every layer has its own.
- ``unfaithfulness`` is documented with KL(y || y'), y the original output, but computes KL(y' || y), as the arguments
  of ``F.kl_div`` are the other way round; and 1 - exp of the *mean* KL of a batch, which is not the mean of its rows'
  unfaithfulness. It is NaN where a probability underflows to 0 in both outputs, and with one logit per graph (N, 1)
  always 0: the softmax over one column is 1. Here it is as documented, per graph, from log-probabilities.
- ``characterization_score`` gives 0 through a division by zero where tensors have fid+ = 0; for the floats that
  ``fidelity`` returns, it raises ZeroDivisionError; with a weight of 0 it can be NaN. Its other values are right.
- ``fidelity`` and ``unfaithfulness`` refuse regression. Here "the prediction stays" is :meth:`.Output.same`, which for
  regression is a tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.baseline import Baseline
from ..model.gates import Stream
from ..model.graphs import GraphBatch
from ..model.output import Output
from .passes import Asking, Masked


@dataclass(frozen=True, eq=False)
class Fidelity:
    """Fidelity of one mask, per graph; PyG's figures are the means over graphs.

    With several predictions per graph (labels of a sequence) a graph's figure is the share of its predictions; PyG's
    mean is over all nodes of all graphs, in which long graphs count for more.

    Args:
        positive: ``(G,)`` float64, fid+: predictions that change when the *complement* is kept; higher is better.
        negative: ``(G,)`` float64, fid-: predictions that change when the mask is kept; lower is better.
        unfaithfulness: ``(G,)`` float64, 1 - exp(-D*) in [0, 1] of what is kept; lower is better.
    """

    positive: Tensor
    negative: Tensor
    unfaithfulness: Tensor

    @property
    def characterization(self) -> float:
        """Harmonic mean of fid+ and 1 - fid- over the batch, in [0, 1]; higher is better."""
        return float(characterization(self.positive.mean(), self.negative.mean()))


def fidelity(
    stream: Stream,
    output: Output,
    gates: Tensor,
    baselines: Sequence[Tensor | Baseline] | None = None,
    labels: Tensor | None = None,
) -> Asking[Fidelity | None]:
    """Return fid+, fid- and unfaithfulness, in two masked passes: one with ``gates``, one with ``1 - gates``.

    Args:
        stream: the batch.
        output: what its outputs mean.
        gates: ``(L, E)`` or ``(1, E)``, a bool mask or gates in [0, 1].
        baselines: b of Eq. 3 for every layer; zero where None, as for PyG.
        labels: for the *phenomenon*: a prediction counts where it becomes right or ceases to be; a wrong one that
            becomes another wrong one does not, and one that is mended counts like one that is spoilt. For the *model*
            (None): where it changes.

    Returns:
        None for the phenomenon where predictions are not classes: no label is ever met exactly.
    """
    graphs, reference = stream.graphs, stream.logits
    if labels is not None and output.predict(reference, graphs).is_floating_point():
        return None
    complement = ~gates if gates.dtype == torch.bool else 1 - gates
    kept, rest = yield [Masked(gates, baselines), Masked(complement, baselines)]
    return Fidelity(
        _changed(output, reference, rest, graphs, labels),
        _changed(output, reference, kept, graphs, labels),
        unfaithfulness(output, reference, kept, graphs),
    )


def unfaithfulness(output: Output, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
    """Return GEF = 1 - exp(-KL(reference || logits)), ``(G,)`` float64, with D* (Eq. 5) as the KL.

    PyG's ``unfaithfulness`` of one graph is this with the two outputs exchanged.
    """
    return -torch.expm1(-output.divergence(reference, logits, graphs).double())


def characterization(positive: Tensor, negative: Tensor, weight: float = 0.5) -> Tensor:
    """Return the weighted harmonic mean ``(...)`` of fid+ and 1 - fid-, in [0, 1]: PyG's ``characterization_score``.

    It is 0 where either is 0.

    Args:
        positive, negative: fid+ and fid-, ``(...)`` in [0, 1].
        weight: w+ of fid+, strictly between 0 and 1; w- of 1 - fid- is what is left.
    """
    if not 0 < weight < 1:
        raise ValueError(f"expected a weight strictly between 0 and 1; got {weight:g}")
    stays = 1 - negative
    bottom = weight * stays + (1 - weight) * positive
    return positive * stays / torch.where(bottom > 0, bottom, 1)


def gold_alone(stream: Stream, output: Output, gold: Tensor) -> Asking[Tensor | None]:
    """Return ``(G,)`` bool: do a graph's predictions stay when exactly the gold messages are kept? One masked pass.

    The baseline is zero, which no method has learned. The mean is the share of graphs: where it is far from 1, the gold
    is not all that the model uses, or the model knows dropped messages from sent ones.

    Args:
        stream: the batch.
        output: what its outputs mean.
        gold: ``(L, E)`` bool.

    Returns:
        None where only the union over several layers is known, ``(1, E)``: to keep it in every layer keeps messages
        that no one claims to be gold, so that an answer of yes would say little.
    """
    if len(gold) != stream.num_layers:
        return None
    (logits,) = yield [Masked(gold)]
    return output.unchanged(stream.logits, logits, stream.graphs)


def _changed(output: Output, reference: Tensor, logits: Tensor, graphs: GraphBatch, labels: Tensor | None) -> Tensor:
    """Return the share ``(G,)`` of a graph's predictions that change, or change between right and wrong."""
    before, after = output.select(reference, graphs), output.select(logits, graphs)
    if labels is None:
        changed = ~output.same(before, after)
    else:
        changed = _right(output, before, labels) != _right(output, after, labels)
    if output.level == "graph":
        return changed.double()
    total = changed.new_zeros(graphs.num_graphs, dtype=torch.float64)
    return total.index_add(0, graphs.batch, changed.double()) / graphs.num_nodes_per_graph.clamp(min=1)


def _right(output: Output, rows: Tensor, labels: Tensor) -> Tensor:
    """Return ``(R,)`` bool: is a prediction that of the label, in all its parts?"""
    predicted = output.decide(rows)
    equal = predicted == labels.reshape(predicted.shape)
    return equal if equal.dim() == 1 else equal.flatten(1).all(1)
