"""What graphs must be like: an edge that leaves its graph reads another one, and no figure would show it.

Every check is one pass over the tensors; the loops that find which graph is meant run once something is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from ..base.errors import UserError

if TYPE_CHECKING:
    from .graphs import GraphBatch

_SAY_NODES = ("x", "pos", "batch", "ptr")
"""Attributes from which PyG knows the number of nodes, beside all that have ``node`` in their name."""

RESERVED = ("edge_index", "batch")
"""What a batch calls its own."""


def check_data_list(graphs: Sequence[Any], levels: Mapping[str, Sequence[str]], name: str = "") -> None:
    """Raise UserError for the first of some ``Data`` objects that cannot be joined as it is meant.

    Args:
        graphs: of a list.
        levels: names of the attributes of each level, ``node``, ``edge`` and ``graph``.
        name: of the list.
    """
    if not graphs:
        raise UserError(f"expected at least one graph{_of(name)}; got none")
    known: dict[tuple[str, str], Tensor] = {}
    for position, data in enumerate(graphs):
        where = f"graph {position}{_of(name)}"
        if isinstance(data, Batch):
            raise UserError(f"{where}: expected one graph; got a Batch of {data.num_graphs}: pass its to_data_list()")
        if not isinstance(data, Data):
            raise UserError(
                f"{where}: expected a torch_geometric.data.Data; got {type(data).__name__}: pass graphs one by one, "
                "heterogeneous ones through to_homogeneous()"
            )
        _check_edges(data, where)
        lengths = {"node": int(data.num_nodes or 0), "edge": data.edge_index.shape[1]}
        for level, names in levels.items():
            for key in names:
                _check_attribute(data, key, level, lengths.get(level), where)
                _check_alike(known.setdefault((level, key), torch.as_tensor(data[key])), data, key, level, where)


def _check_edges(data: Data, where: str) -> None:
    """Check edge_index, and that the number of nodes is known."""
    edges = data.edge_index
    if edges is None:
        sparse = "; it has an adj_t: keep edge_index" if "adj_t" in data else ""
        raise UserError(f"{where}: expected an edge_index; got {data}{sparse}")
    if not isinstance(edges, Tensor) or edges.dim() != 2 or edges.shape[0] != 2:
        shape = tuple(edges.shape) if isinstance(edges, Tensor) else type(edges).__name__
        raise UserError(f"{where}: expected an edge_index of shape (2, E); got {shape}: transpose or stack it")
    if edges.dtype != torch.int64:
        remedy = "torch.empty(2, 0, dtype=torch.long)" if not edges.numel() else "edge_index.long()"
        raise UserError(f"{where}: expected an edge_index of int64; got {edges.dtype}: use {remedy}")
    # PyG guesses the number of nodes from the edges where nothing else says it, and forgets those without an edge.
    if not any(key in _SAY_NODES or "node" in key for key in data.keys()):  # noqa: SIM118 - Data is no mapping
        raise UserError(f"{where}: expected node features x, or num_nodes; got {data}: say how many nodes it has")
    count = int(data.num_nodes or 0)
    bad = ((edges < 0) | (edges >= count)).any(0).nonzero()[:1, 0].tolist()
    if bad:
        _refuse_edge(where, bad[0], edges[:, bad[0]], count)


def _refuse_edge(where: str, edge: int, ends: Tensor, count: int) -> NoReturn:
    value = next(node for node in ends.tolist() if not 0 <= node < count)
    raise UserError(
        f"{where}, edge {edge}: expected nodes from 0 to {count - 1}, of the {count} that the graph has; got node "
        f"{value}: mend edge_index"
    )


def _check_attribute(data: Data, key: str, level: str, length: int | None, where: str) -> None:
    if key in RESERVED:
        raise UserError(f"{where}: expected names other than {', '.join(RESERVED)}; got {key!r} as one: leave it out")
    if key not in data:
        raise UserError(f"{where}: expected {key!r} with {length or 1} rows; got {data}")
    value = data[key]
    if not isinstance(value, Tensor | int | float | bool):
        raise UserError(f"{where}: expected a tensor as {key!r}; got {type(value).__name__}: convert it")
    if isinstance(value, Tensor) and value.layout != torch.strided:
        raise UserError(f"{where}: expected a dense tensor as {key!r}; got {value.layout}: use to_dense()")
    if length is not None and (not isinstance(value, Tensor) or not value.dim() or len(value) != length):
        got = tuple(value.shape) if isinstance(value, Tensor) else value
        raise UserError(f"{where}: expected {key!r} with {length} rows, one a {level}; got {got}: mend it")


def _check_alike(first: Tensor, data: Data, key: str, level: str, where: str) -> None:
    """Compare an attribute with that of the first graph: joined, one type would silently become another."""
    value = torch.as_tensor(data[key])
    expected_row, row_shape = (x.shape[1:] if level != "graph" else x.squeeze(0).shape for x in (first, value))
    pairs = (("type", value.dtype, first.dtype), ("shape of a row", tuple(row_shape), tuple(expected_row)))
    for what, mine, expected in pairs:
        if mine != expected:
            raise UserError(f"{where}: expected {key!r} of {what} {expected}, as in graph 0; got {mine}: convert it")
    if not bool(torch.isfinite(value).all()):
        row, number = _first_not_finite(torch.atleast_1d(value))
        raise UserError(f"{where}: expected finite values of {key!r}; got {number} in row {row}: mend the data")


def _of(name: str) -> str:
    return f" of {name!r}" if name else ""


def check_batch(batch: GraphBatch) -> None:
    """Raise UserError unless the tensors of a batch are those of a disjoint union of graphs."""
    _check_pointers(batch)
    _check_lengths(batch)
    _check_keys(batch)
    graph = torch.repeat_interleave(
        torch.arange(len(batch.graph_key), device=batch.edge_index.device), batch.edge_ptr.diff()
    )
    first, end = batch.node_ptr[graph], batch.node_ptr[graph + 1]
    outside = ((batch.edge_index < first) | (batch.edge_index >= end)).any(0)
    if bool(outside.any()):
        at = int(outside.nonzero()[0, 0])
        g = int(graph[at])
        local = batch.edge_index[:, at] - batch.node_ptr[g]
        _refuse_edge(f"graph {g}", at - int(batch.edge_ptr[g]), local, int(end[at] - first[at]))
    for level in ("node", "edge", "graph"):
        for key, value in getattr(batch, level).items():
            if not bool(torch.isfinite(value).all()):
                _refuse_value(batch, level, key, value)


def _check_pointers(batch: GraphBatch) -> None:
    structure = {"edge_index": 2, "node_ptr": 1, "edge_ptr": 1, "graph_key": 1, "edge_key": 1}
    for name, dim in structure.items():
        value = getattr(batch, name)
        if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.dim() != dim:
            got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            shape = "(2, E)" if name == "edge_index" else "one dimension"
            raise UserError(f"expected {name} as an int64 tensor of {shape}; got {got}: convert it")
    count = len(batch.graph_key)
    if batch.edge_index.shape[0] != 2:
        raise UserError(f"expected edge_index of shape (2, E); got {tuple(batch.edge_index.shape)}: transpose it")
    for name, total in (("node_ptr", None), ("edge_ptr", batch.edge_index.shape[1])):
        ptr = getattr(batch, name)
        if len(ptr) != count + 1:
            raise UserError(f"expected {name} of {count + 1} entries for {count} graphs; got {len(ptr)}")
        if int(ptr[0]) != 0 or bool((ptr.diff() < 0).any()) or (total is not None and int(ptr[-1]) != total):
            to = "the number of nodes" if total is None else total
            raise UserError(f"expected {name} to rise from 0 to {to}; got {int(ptr[0])} to {int(ptr[-1])}: mend it")


def _check_lengths(batch: GraphBatch) -> None:
    lengths = {"node": int(batch.node_ptr[-1]), "edge": batch.edge_index.shape[1], "graph": len(batch.graph_key)}
    if len(batch.edge_key) != lengths["edge"]:
        raise UserError(f"expected edge_key of {lengths['edge']} entries; got {len(batch.edge_key)}")
    seen: set[str] = set(RESERVED)
    for level, length in lengths.items():
        if not isinstance(getattr(batch, level), dict):
            raise UserError(f"expected {level} as a dict of tensors; got {type(getattr(batch, level)).__name__}")
        for key, value in getattr(batch, level).items():
            if key in seen:
                raise UserError(f"expected a name of its own for each tensor; got {key!r} twice: rename one")
            seen.add(key)
            dense = isinstance(value, Tensor) and value.layout == torch.strided
            if not dense or not value.dim() or len(value) != length:
                got = tuple(value.shape) if dense else getattr(value, "layout", type(value).__name__)
                raise UserError(f"expected {level} tensor {key!r} with {length} rows; got {got}: mend it")


def _check_keys(batch: GraphBatch) -> None:
    """Identities are what random draws and joined tables go by; a second one of a kind would share the first's."""
    keys, counts = batch.graph_key.unique(return_counts=True)
    if bool((counts > 1).any()):
        raise UserError(f"expected a graph_key of its own for each graph; got {int(keys[counts > 1][0])} twice")
    graph = torch.repeat_interleave(torch.arange(len(batch.edge_ptr) - 1).to(batch.edge_ptr), batch.edge_ptr.diff())
    by_key = batch.edge_key.argsort(stable=True)
    order = by_key[graph[by_key].argsort(stable=True)]
    same = (batch.edge_key[order].diff() == 0) & (graph[order].diff() == 0)
    if bool(same.any()):
        at = order[1:][same][0]
        key = int(batch.edge_key[at])
        raise UserError(f"graph {int(graph[at])}: expected an edge_key of its own for each edge; got {key} twice")


def _refuse_value(batch: GraphBatch, level: str, key: str, value: Tensor) -> NoReturn:
    row, number = _first_not_finite(value)
    ptr = {"node": batch.node_ptr, "edge": batch.edge_ptr}.get(level)
    graph = row if ptr is None else int(torch.searchsorted(ptr, row, right=True)) - 1
    inside = "" if ptr is None else f", {level} {row - int(ptr[graph])}"
    raise UserError(f"graph {graph}{inside}: expected finite values of {key!r}; got {number}: mend the data")


def _first_not_finite(value: Tensor) -> tuple[int, complex]:
    """Return row and value of the first entry that is no number."""
    flat = value.reshape(len(value), -1)
    row = int((~torch.isfinite(flat)).any(1).nonzero()[0, 0])
    number: complex = flat[row][~torch.isfinite(flat[row])][0].item()
    return row, number
