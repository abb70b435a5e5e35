"""Is the output of the model what the problem says that it is: rows, finite values, logits, D*?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..base.errors import UserError
from ..model.graphs import GraphBatch
from ..model.integrity import evaluating
from ..model.output import Output
from ..model.subgraphs import check_neighbourhoods
from .splits import check_splits

if TYPE_CHECKING:
    from ..plugins.task import Problem


@torch.no_grad()
def fitted_output(problem: Problem, max_edges: int) -> Output:
    """Return the problem's output with what it takes from the model's validation output, such as a scale.

    Raises:
        UserError: when the splits, or the validation output and its labels, cannot be.
    """
    if type(problem.output).fitted is Output.fitted:
        return problem.output
    check_splits(problem)
    with evaluating(problem.model):
        logits = torch.cat(plain_outputs(problem, "validation", max_edges))
    split = problem.splits["validation"]
    return problem.output.fitted(logits, split.labels, split.graphs)


def plain_outputs(problem: Problem, name: str, max_edges: int) -> list[Tensor]:
    """Return the outputs of a split, a part at a time, once they are what the problem's ``output`` expects."""
    split, output = problem.splits[name], problem.output
    parts = [(part, _kept(problem.model(part.batch))) for part in split.graphs.parts(max_edges)]
    for part, logits in parts:
        if not isinstance(logits, Tensor):
            raise UserError(f"expected a tensor from the model; got {type(logits).__name__}: return its output alone")
        reason = output.check_logits(logits, part.batch)
        if reason is not None:
            raise UserError(f"split {name!r}: {reason}{_pooling_hint(logits, part.batch)}")
        bad = (~torch.isfinite(logits)).reshape(len(logits), -1).any(1).nonzero()[:1, 0]
        if len(bad):
            graph = part.graphs.start + int(output.row_graph(part.batch)[bad[0]])
            value = float(logits[bad[0]].flatten()[~torch.isfinite(logits[bad[0]].flatten())][0])
            raise UserError(f"split {name!r}, graph {graph}: expected finite outputs; got {value}: mend the model")
    whole = torch.cat([logits for _, logits in parts])
    reason = output.check_labels(split.labels, whole, split.graphs)
    if reason is not None:
        raise UserError(f"split {name!r}: {reason}")
    if output.looks_like_probabilities(whole):
        same = len(whole) > 1 and bool((whole == whole[:1]).all())
        raise UserError(
            f"split {name!r}: expected logits; got probabilities, of which a second softmax or sigmoid would be taken: "
            "return what comes before it, or their logarithms (of one probability p, its torch.logit)"
            + ("; and mend the model, which gives the same output for all graphs" if same else "")
        )
    return [logits for _, logits in parts]


def _kept(output: Any) -> Any:
    """Return an output that the model cannot write into again."""
    return output.clone() if isinstance(output, Tensor) else output


def _pooling_hint(logits: Tensor, graphs: GraphBatch) -> str:
    """Return a hint for the usual reason for too few rows: PyG's pooling counts graphs by the nodes that they have."""
    without_nodes = int(graphs.num_nodes_per_graph[-1]) == 0
    fewer = logits.dim() > 0 and len(logits) < graphs.num_graphs
    return ": the last graph has no nodes, pool with size=graphs.num_graphs" if fewer and without_nodes else ""


def check_closed(output: Output, name: str, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> None:
    """With all messages dropped the output and D* are numbers, too: methods and controls go there."""
    fine = torch.isfinite(logits).reshape(len(logits), -1).all(1)
    if not bool(fine.all()):
        values = logits[~fine].flatten()
        raise UserError(
            f"split {name!r}: expected a finite output with all messages at zero, where methods and controls go; got "
            f"{float(values[~torch.isfinite(values)][0])}: guard logarithms, divisions and roots in the model"
        )
    same, far = output.divergence(reference, reference, graphs), output.divergence(reference, logits, graphs)
    for what, value in (("of an output from itself", same), ("with all messages at zero", far)):
        if value.shape != (graphs.num_graphs,) or not bool(torch.isfinite(value).all()) or float(value.min()) < -1e-4:
            got = float(value.flatten()[0]) if value.numel() else "nothing"
            raise UserError(
                f"split {name!r}: expected D* {what} as a finite number of at least 0 for each of {graphs.num_graphs} "
                f"graphs; got {tuple(value.shape)}, {got} first: mend {type(output).__name__}.divergence()"
            )
    loss = output.loss(output.explained(reference, graphs), reference, graphs)
    if loss.shape != (graphs.num_graphs,):
        raise UserError(
            f"split {name!r}: expected a loss for each of {graphs.num_graphs} graphs; got {tuple(loss.shape)}: mend "
            f"{type(output).__name__}.loss()"
        )
    if float(same.abs().max()) > 1e-4:
        raise UserError(
            f"split {name!r}: expected D* of an output from itself to be 0; got {float(same.abs().max()):.3g}: mend "
            f"{type(output).__name__}.divergence()"
        )


def check_whole(problem: Problem, name: str, graphs: GraphBatch) -> None:
    """Where graphs are neighbourhoods, their outputs are those of the whole graph."""
    if problem.whole is not None:
        reason = check_neighbourhoods(problem.model, problem.output, problem.whole, graphs)
        if reason is not None:
            raise UserError(f"split {name!r}: {reason}")
