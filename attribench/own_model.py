"""Explaining somebody's own trained model, without registering anything."""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.data.data import BaseData
from torch_geometric.explain import Explanation

from . import api
from .base.errors import UserError
from .base.progress import Progress
from .model.output import Output
from .plugins.configs import Overrides
from .plugins.given import FOLDER
from .plugins.giving import give
from .plugins.giving_nodes import about_nodes
from .plugins.registry import TASKS
from .telling.results import Ending, Results

logger = logging.getLogger(__name__)


class Explanations(Results):
    """What methods say of somebody's own model: a results folder, and the graphs that were given.

    Args:
        folder: results folder.
        ending: how the run ended.
        graphs: the list that was given.
    """

    def __init__(self, folder: Path, ending: Ending | None, graphs: list[Data]) -> None:
        super().__init__(folder, ending)
        self.graphs = graphs

    def to_pyg(self, method: str, **seeds: int) -> list[Explanation]:
        """Return PyG's explanations of every graph that a method finished, with the graph's own attributes.

        Args:
            method: its name.
            **seeds: ``fit_seed``; without it the first.

        Raises:
            UserError: when there are none, with the reason.
        """
        found = []
        for one in self.explanations(method, None, **seeds):
            own = {name: value for name, value in self.graphs[one.position].to_dict().items() if name not in _MADE}
            found.append(one.to_pyg(**own))
        return found


_MADE = ("edge_index", "edge_mask", "edge_mask_of_layers", "retained", "prediction", "num_nodes")


def explain(
    model: nn.Module,
    graphs: Iterable[Data] | Data,
    methods: str | list[str] = "all",
    *,
    nodes: Sequence[int] | Tensor | None = None,
    num_hops: int | None = None,
    fit: Iterable[Data] | Sequence[int] | Tensor | None = None,
    labels: Sequence[Any] | Tensor | None = None,
    output: Output | None = None,
    arguments: Sequence[str] | None = None,
    name: str = "own-model",
    settings: Overrides | None = None,
    out: Path | str | None = None,
    jobs: int = 0,
    progress: Progress | bool = True,
    **options: Any,
) -> Explanations:
    """Explain a trained PyG model with methods, and score what they say.

    Args:
        model: called as ``forward(data)`` or ``forward(x, edge_index[, edge_attr | edge_weight][, batch])``, or a
            :class:`.GraphModel`. It is copied, and stays as it is.
        graphs: a list of ``Data``; with ``nodes`` the one ``Data`` that they are of.
        methods: names, or ``all``. Amortized ones are skipped where fewer than 50 graphs are fitted on.
        nodes: of one big graph, numbers or a mask ``(N,)``, for a model that returns ``(N, C)``: each is explained in
            its neighbourhood, which has its nodes' numbers in the graph as ``node_id`` and which of them it is about as
            ``target``.
        num_hops: how far neighbourhoods go; without it the model's layers + 1.
        fit: graphs to fit on (three quarters) and to choose thresholds on (one). Without them the list is split
            60/20/20 by a hash of each graph, and the last part is explained. With ``nodes`` they are nodes, too, and
            without them up to 200 others are drawn.
        labels: one for each of ``graphs``, or of ``nodes``; without them ``y`` where every graph has one that fits the
            output, and the model's own predictions otherwise.
        output: what the model's output means; without it logits ``(G, C)`` of classes.
        arguments: what the model is called with, where its ``forward`` does not name attributes of the graphs.
        name: what the task is called in tables.
        settings: options of methods by their names: ``{"graphmask": {"steps": 1000}}``.
        out: results folder, whose finished cells are used again; without it a temporary one.
        jobs: worker processes; 0: in this process.
        progress: where to show it; True for standard error.
        **options: others of :class:`~attribench.running.options.RunOptions`, such as ``seeds`` (of the methods).

    Raises:
        UserError: when it cannot be told how the model is called or what it returns, when there are too few graphs, or
            when the model cannot be explained rightly.
    """
    for taken in ("task", "plugin", "data_dir", "file"):
        if taken in options:
            raise UserError(f"expected options of a run of methods on one model; got {taken!r}: leave it out")
    whole = None
    # A stranger's graph of several kinds of nodes is iterable, and raises.
    listed: Any = list(graphs) if isinstance(graphs, Iterable) and not isinstance(graphs, BaseData) else graphs
    if nodes is not None:
        listed, fit, whole = about_nodes(model, graphs, nodes, fit, num_hops, arguments)
    elif num_hops is not None:
        raise UserError(f"expected num_hops with nodes=...; got {num_hops}: leave it out")
    given = give(model, listed, fit, labels, output, arguments, name, whole)
    folder = Path(tempfile.mkdtemp(prefix="attribench-")) if out is None else Path(out)
    try:
        with TASKS.holding(given.task()):
            file = given.save(folder / FOLDER)
            results = api.run(
                methods=methods, task=name, out=str(folder), plugin=[str(file)], settings=settings, jobs=jobs,
                progress=progress, **{"vary": ["fit"], **options},
            )  # fmt: skip
        ending = results.ending
        if ending is not None and ending.refused:
            raise UserError("; ".join(ending.refused.values()))
        for why, count in (ending.left_out if ending is not None else {}).items():
            logger.warning("left out of the tables of %s: %d cells %s", folder, count, why)
        found = Explanations(folder, ending, listed)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found
