"""What is checked of outputs and labels: every function returns what is wrong, in one line, or None."""

import torch
from torch import Tensor

from ..base.errors import UserError
from .graphs import GraphBatch


def check_classes(labels: Tensor, count: int) -> str | None:
    """Return what keeps labels ``(R,)`` from being classes 0 to ``count`` - 1, in one line, or None."""
    if labels.dim() != 1:
        return f"expected labels of shape ({len(labels)},); got {tuple(labels.shape)}: flatten them"
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        missing = labels.dtype != torch.bool and not bool(torch.isfinite(labels).all())
        remedy = "leave out what has no label" if missing else "convert them with .long()"
        return f"expected integral labels; got {labels.dtype}{', some of them no numbers' * missing}: {remedy}"
    return first_bad(labels, (labels >= 0) & (labels < count), f"a class from 0 to {count - 1}")


def check_nodes(graphs: GraphBatch, name: str, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with a graph attribute ``(G, *shape)`` that names nodes of each graph, or None."""
    expected = f"expected a graph attribute {name!r} of int64 {(graphs.num_graphs, *shape)}, nodes numbered by graph"
    if name not in graphs.graph:
        return f"{expected}; got none among {', '.join(graphs.graph) or 'no attributes'}: see neighbourhoods()"
    nodes = graphs.graph[name]
    if nodes.shape != (graphs.num_graphs, *shape) or nodes.dtype != torch.int64:
        return f"{expected}; got {nodes.dtype} {tuple(nodes.shape)}"
    counts = graphs.num_nodes_per_graph.view(-1, *(1 for _ in shape))
    wrong = ((nodes < 0) | (nodes >= counts)).flatten(1).any(1) if shape else (nodes < 0) | (nodes >= counts)
    if not bool(wrong.any()):
        return None
    graph = int(wrong.nonzero()[0])
    return f"{expected}; graph {graph} has {int(graphs.num_nodes_per_graph[graph])} nodes and {nodes[graph].tolist()}"


def check_target_class(target_class: int | None) -> int | None:
    """Return the class to explain.

    Raises:
        UserError: unless it is None or a number from 0.
    """
    if target_class is not None and (type(target_class) is not int or target_class < 0):
        raise UserError(f"expected a target_class of 0 or more, or None; got {target_class!r}")
    return target_class


def check_target_column(target_class: int | None, logits: Tensor) -> str | None:
    """Return why the class to explain is none of an output's columns, in one line, or None."""
    if target_class is None or target_class < logits.shape[1]:
        return None
    return f"expected a target_class below {logits.shape[1]}, the number of columns; got {target_class}"


def first_bad(labels: Tensor, good: Tensor, expected: str) -> str | None:
    """Return where and what the first label is that is not ``good``, in one line, or None."""
    if bool(good.all()):
        return None
    position = (~good).nonzero()[0].tolist()
    place = ", ".join(map(str, position))
    return f"expected {expected} as every label; got {labels[tuple(position)].item()} at position {place}"


def reshaped(labels: Tensor, shape: tuple[int, ...]) -> str:
    """Return how labels get another shape."""
    flat = len(shape) == 1 and labels.numel() == shape[0]
    return "use labels.flatten()" if flat else "give one row per graph and a column per value"


def check_bits(labels: Tensor, shape: tuple[int, ...]) -> str | None:
    """Return what keeps labels from being 0 or 1 (or bool) and of ``shape``, in one line, or None."""
    if labels.shape != shape:
        return f"expected labels of shape {shape}; got {tuple(labels.shape)}: {reshaped(labels, shape)}"
    if labels.is_floating_point() or labels.is_complex():
        missing = not bool(torch.isfinite(labels).all())
        remedy = "leave out what has no label" if missing else "convert them with .long()"
        return f"expected bool or integral labels; got {labels.dtype}{', some of them no numbers' * missing}: {remedy}"
    return first_bad(labels, (labels == 0) | (labels == 1), "0 or 1")


def within_unit(logits: Tensor) -> bool:
    """Return whether all values are in [0, 1]; logits that are 0 everywhere say nothing and are none."""
    return bool(((logits >= 0) & (logits <= 1)).all() and logits.any())
