"""What is out of the gates' reach: layers that are none of the model's, and what goes over edges beside messages."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from ..base.seeds import generator
from ..model.driver import Session
from ..model.driver_list import driver_of, drivers
from ..model.graphs import LEVELS, GraphBatch
from ..model.isolation import copied
from ..model.model import GraphModel

ATTEMPTS = 8
"""Wirings that are drawn for a graph until one has no new self-loop."""


def find_stray(model: GraphModel, batches: Iterable[GraphBatch]) -> str | None:
    """Return what is wrong with the layers that run in some passes, in one line with the remedy, or None.

    A layer that is no submodule is out of the gates' reach, by whatever method it is called.
    """
    name = model.called
    for graphs in batches:
        counts = []
        for _ in range(2):
            before = [list(getattr(graphs, level)) for level in LEVELS]
            modules = _modules_that_run(model, graphs)
            if before != [list(getattr(graphs, level)) for level in LEVELS]:
                return (
                    f"expected a model that leaves the graphs as they are; {name} adds to their tensors: keep it in "
                    "variables"
                )
            reason = _outside(model, modules)
            if reason is not None:
                return reason
            counts.append(sum(driver_of(module) is not None for module in modules))
        if counts[0] != counts[1]:
            return (
                f"expected as many message-passing calls in every pass; {name} made {counts[0]} and then {counts[1]} "
                "for the same graphs: keep nothing from pass to pass"
            )
    return None


def _modules_that_run(model: GraphModel, graphs: GraphBatch) -> list[nn.Module]:
    """Return the modules that run in a pass, as often as they do."""
    found: list[nn.Module] = []

    def note(module: nn.Module, _: Any) -> None:
        found.append(module)
        layer = _layer_around()  # which may run by propagate() or forward() alone
        if layer is not None and layer not in found:
            found.append(layer)

    handle = register_module_forward_pre_hook(note)
    try:
        model(graphs)
    finally:
        handle.remove()
    return found


def _layer_around() -> nn.Module | None:
    """Return the message-passing layer whose method runs, by the calls that led here."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if isinstance(layer := frame.f_locals.get("self"), nn.Module) and driver_of(layer) is not None:
            return layer
        frame = frame.f_back
    return None


def _outside(model: nn.Module, modules: Iterable[nn.Module]) -> str | None:
    """Return which of the modules that ran is none of the model's."""
    known = set(map(id, model.modules()))
    for module in modules:
        if id(module) not in known and (driver_of(module) is not None or any(True for _ in module.parameters())):
            return (
                f"expected all layers as submodules of the model; {type(module).__name__} runs and is none, so that "
                "its messages and weights are out of reach: put lists of layers into torch.nn.ModuleList"
            )
    return None


@torch.no_grad()
def find_leak(model: GraphModel, graphs: GraphBatch, tolerance: float) -> str | None:
    """Return that something goes over edges beside the messages, in one line with the remedy, or None.

    With all messages at zero no node may hear of another, nor of what stands on an edge: the same graphs with other
    sources of their edges, or with the edges' attributes exchanged, give the same output. Degrees stay as they are, and
    what :meth:`~attribench.GraphModel.encode` returns is kept, so that a model may know of the structure alone. What it
    reads of neighbours from tensors of its own is not seen.

    Args:
        model: in evaluation mode.
        graphs: some graphs.
        tolerance: how far outputs may be apart, of the largest absolute output.
    """
    handles: list[RemovableHandle] = []
    try:
        for driver in drivers(model, Session()):
            driver.silence(handles)
        state = model.encode(graphs)
        closed = model.decode(graphs, copied(state)).clone()
        logits = model.decode(rewired(graphs), copied(state))
        exchanged = model.decode(_with_exchanged_attributes(graphs), copied(state))
    except Exception:  # a model that refuses such graphs cannot be asked; what else is wrong is told elsewhere
        return None
    finally:
        for handle in handles:
            handle.remove()
    scale = float(closed.abs().max())
    gaps = {"sources": float((logits - closed).abs().max()), "attributes": float((exchanged - closed).abs().max())}
    what = next((name for name, gap in gaps.items() if gap > tolerance * max(scale, 1e-12)), None)
    if what is None:
        return None
    return (
        f"expected nothing to go over edges but the layers' messages; with all of them at zero {model.called} "
        f"gives another output where edges have other {what} (by {gaps[what]:.3g}, the largest being {scale:.3g}): "
        "move into message() what is computed from edges elsewhere (sums of one's own, x_j in aggregate() or update(), "
        "attention masks, a readout of edges), and into encode() what is known of the structure alone"
    )


def _with_exchanged_attributes(graphs: GraphBatch) -> GraphBatch:
    """Return graphs whose edges have exchanged their attributes, also between graphs."""
    order = torch.randperm(graphs.num_edges, generator=generator("exchanged")).to(graphs.device)
    return replace(graphs, edge={name: value[order] for name, value in graphs.edge.items()})


def rewired(graphs: GraphBatch) -> GraphBatch:
    """Return graphs with the sources of their edges exchanged, without new self-loops; degrees stay.

    Where all edges of a graph have one target, exchanged sources are no other graph: they are drawn anew.
    """
    draw, (source, target) = generator("rewired"), graphs.edge_index
    first, size = graphs.node_ptr[:-1][graphs.edge_graph], graphs.num_nodes_per_graph[graphs.edge_graph]
    loops, done = source == target, torch.zeros(graphs.num_graphs, dtype=torch.bool, device=graphs.device)
    lowest = target.new_zeros(graphs.num_graphs).scatter_reduce(
        0, graphs.edge_graph, target, "amin", include_self=False
    )
    several = torch.zeros_like(done).index_put((graphs.edge_graph[target != lowest[graphs.edge_graph]],), ~done[:1])
    movable = (~loops).nonzero()[:, 0]
    result = source.clone()
    for _ in range(ATTEMPTS):
        keys = torch.rand(len(movable), generator=draw).to(graphs.device)
        order = keys.argsort()
        order = order[graphs.edge_graph[movable][order].argsort(stable=True)]
        candidate = source.clone()
        candidate[movable] = source[movable[order]]
        drawn = first + (torch.rand(len(source), generator=draw).to(graphs.device) * size).long()
        candidate = torch.where(several[graphs.edge_graph] | loops, candidate, drawn)
        bad = torch.zeros_like(done).index_put(
            (graphs.edge_graph[(candidate == target) & ~loops],), torch.ones_like(done[:1])
        )
        fresh = (~bad & ~done)[graphs.edge_graph]
        result = torch.where(fresh, candidate, result)
        done = done | ~bad
    return graphs.with_edges(torch.stack([result, target]))
