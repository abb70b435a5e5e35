"""Does a pass leave nothing behind, see one graph at a time, and give the same when it is recorded?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..model.gates import Gates, UnsupportedModelError, refuse_changed_graphs, watch_graphs
from ..model.graphs import GraphBatch
from ..model.integrity import changed_by_a_pass
from ..model.isolation import Watch
from ..model.model import GraphModel
from .splits import SPLITS, TOLERANCES

if TYPE_CHECKING:
    from ..plugins.task import Problem


CUDA_TOLERANCE = 1e-5
"""The same between two passes over one batch on CUDA, whose sums are not ordered; on the CPU they are bit-equal."""


def check_repetition(model: GraphModel, graphs: GraphBatch, others: GraphBatch) -> None:
    """Two passes over the same graphs give the same, whatever came between and the state of the random generators."""

    devices = [graphs.device] if graphs.device.type == "cuda" else []

    def passed(seed: int, grad: bool = False) -> Tensor:
        with torch.set_grad_enabled(grad), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            output: Tensor = model(graphs)
            return output.clone()

    watch = Watch()
    watch_graphs(watch, graphs)
    first, _, again, other = passed(1), model(others), passed(1), passed(2)
    refuse_changed_graphs(model, watch.changed())
    name = model.called
    if not same(first, again):
        raise UnsupportedModelError(
            f"expected the same output for the same graphs; {name} gives another one in the second pass: it keeps "
            "something from pass to pass, draws from a generator of its own, or changes its graphs or weights"
        )
    if not (same(first, other) and same(passed(1, grad=True), passed(2, grad=True))):
        raise UnsupportedModelError(
            f"expected the same output for the same graphs in evaluation mode; {name} draws at random: give functions "
            "such as F.dropout and dropout_edge training=self.training"
        )
    kept = changed_by_a_pass(model, graphs)
    if kept:
        raise UnsupportedModelError(
            f"expected a model that a pass leaves as it is; {name} has another {kept} after every pass: keep no "
            "counts in it, and no statistics of batches in evaluation mode"
        )


def check_independence(problem: Problem, name: str, graphs: GraphBatch) -> None:
    """A graph alone gives what it gives in the batch."""
    model, output = problem.model, problem.output
    together, owner = model(graphs), output.row_graph(graphs)
    scale = together.abs().reshape(len(together), -1).amax(0)  # of a column; one may hold the sign of a class left out
    tolerance = TOLERANCES.get(together.dtype, 1e-4) * torch.maximum(scale, scale.median()).clamp(min=1e-12)
    for graph in range(graphs.num_graphs):
        here = together[owner == graph]
        try:
            alone = model(graphs.select(torch.tensor([graph], device=graphs.device)))
        except Exception as error:
            raise UnsupportedModelError(
                f"split {name!r}: expected an output for a graph alone; {type(error).__name__}: {error}: "
                f"{_suspect(model)}"
            ) from error
        if alone.shape != here.shape:
            raise UnsupportedModelError(
                f"split {name!r}: expected an output of shape {tuple(here.shape)} for a graph alone, as in a batch; "
                f"got {tuple(alone.shape)}: let no shape depend on the batch"
            )
        gaps = (alone - here).abs().reshape(len(alone), -1)
        if bool((gaps > tolerance).any()):
            gap = float(gaps.max())
            raise UnsupportedModelError(
                f"split {name!r}: expected a graph to give the same output alone and in a batch; one differs by "
                f"{gap:.3g}, the largest output being {float(together.abs().max()):.3g}: {_suspect(model)}"
            )


def _suspect(model: nn.Module) -> str:
    """Say what may see more than one graph, and what to do."""
    cached = [name for name, module in model.named_modules() if getattr(module, "cached", False) is True]
    if cached:
        return f"{cached[0]!r} keeps the edges that it saw first; use cached=False"
    norms = [name for name, module in model.named_modules() if type(module).__name__.endswith("Norm")]
    if not norms:
        return "something in the model sees all graphs at once, or keeps what it saw: give pooling batch=graphs.batch"
    what = f"something in the model, perhaps {norms[0]!r}, sees all graphs at once"
    return f"{what}; give normalisations and pooling batch=graphs.batch"


def check_recorded(problem: Problem, gates: Gates, plain: dict[str, list[Tensor]], max_edges: int) -> None:
    """The recorded pass, decode(encode(graphs)), gives what model(graphs) gives, on every graph."""
    for name in SPLITS:
        for part, expected in zip(problem.splits[name].graphs.parts(max_edges), plain[name], strict=True):
            got = gates.record(part.batch).logits
            if got.shape != expected.shape or not same(got, expected):
                own = type(problem.model).forward.__qualname__.partition(".")[0]
                raise UnsupportedModelError(
                    f"split {name!r}: expected model(graphs) to be decode(encode(graphs)); {own}.forward() gives "
                    "another output, which methods would not explain: move what it does into decode()"
                )


@torch.no_grad()
def check_isolation(gates: Gates, samples: dict[str, GraphBatch]) -> int:
    """With all gates open the model's own output comes back, also after another batch was recorded; return L."""
    model = gates.model
    first, second = samples["test"], samples["validation"]
    recording = gates.record(first)
    for what in ("", " after another batch was recorded"):
        if not same(recording.forward(recording.ones()), recording.logits):
            raise UnsupportedModelError(
                f"expected the model's own output with all gates open; {model.called} gives another{what}: it "
                "keeps something from pass to pass, or changes in place what it has passed on"
            )
        other = gates.record(second)
    depths = [recording.num_layers, other.num_layers, gates.record(samples["train"]).num_layers]
    if len(set(depths)) > 1:
        raise UnsupportedModelError(
            f"expected as many message-passing calls for all graphs; {model.called} makes {min(depths)} to "
            f"{max(depths)}: use a fixed number of layers"
        )
    return recording.num_layers


def same(a: Tensor, b: Tensor) -> bool:
    """Say whether two passes over one batch gave the same: bit for bit on the CPU."""
    if a.shape != b.shape:
        return False
    if a.device.type == "cpu":
        return torch.equal(a, b)
    return bool(((a - b).abs() <= CUDA_TOLERANCE * b.abs().max().clamp(min=1)).all())
