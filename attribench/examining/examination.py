"""Is a problem what the harness takes it for? Tried once, after it is built and before any method sees it.

Every graph is passed twice, plainly and recorded: the output has the right shape, is finite, and is the same both ways.
On at most 32 graphs of each split the rest is tried: that a pass leaves nothing behind, that graphs do not see each
other, that the gates reach every message, and that gradients reach the gates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..base.errors import UserError
from ..base.seeds import generator
from ..model.gates import Gates, Recording, UnsupportedModelError, refuse_changed_graphs, watch_graphs
from ..model.graph_checks import check_batch
from ..model.graphs import GraphBatch
from ..model.integrity import evaluating, module_state
from ..model.isolation import Watch
from ..model.output import Output
from ..model.refusals import compiled
from ..model.strays import find_leak, find_stray
from ..model.subgraphs import check_neighbourhoods

if TYPE_CHECKING:
    from ..plugins.task import Problem, Split

SPLITS = ("train", "validation", "test")
MOST = 32
"""Graphs of a split on which isolation, invariance, reach and gradients are tried."""

LEVELS_TRIED = (1.0, 0.5, 0.1, 0.01)
"""Values of all gates at which a gradient is looked for."""

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8}
"""How far a graph's output alone may be from that in a batch, of the largest absolute output."""

LEAST_LEAK = 1e-4
"""How far an output without messages may move with the edges' sources, of the largest absolute output."""

CUDA_TOLERANCE = 1e-5
"""The same between two passes over one batch on CUDA, whose sums are not ordered; on the CPU they are bit-equal."""


@dataclass(frozen=True)
class Findings:
    """What was found out about a problem that it does not say itself.

    Args:
        num_layers: L.
        replay: whether the first call's messages may be taken from a recording.
        without_gradient: layers whose gates change the output though no gradient reaches them.
        unused: layers whose gates change no output of the graphs that were tried.
        data: a hash of its graphs and labels, which are to be the same whenever it is built.
    """

    num_layers: int
    replay: bool = False
    without_gradient: list[int] = field(default_factory=list)
    unused: list[int] = field(default_factory=list)
    data: str = ""


def examine(problem: Problem, max_edges: int) -> Findings:
    """Examine a problem.

    Args:
        problem: as its task built it.
        max_edges: the most edges that one pass holds.

    Raises:
        UserError: for splits, labels, gold or outputs that cannot be what they are meant to be.
        UnsupportedModelError: for a model whose messages cannot be gated exactly.
    """
    check_splits(problem)
    _check_precision(problem)
    reason = compiled(problem.model)
    if reason is not None:
        raise UnsupportedModelError(reason)
    with evaluating(problem.model), torch.no_grad():
        # First of all, with graphs of its own: a model that keeps something does so in its first pass.
        stray = find_stray(problem.model, (sample(problem.splits[name].graphs) for name in SPLITS))
        plain = {name: _plain_outputs(problem, name, max_edges) for name in SPLITS}
        samples = {name: sample(problem.splits[name].graphs) for name in SPLITS}
        _check_repetition(problem.model, samples["test"], samples["validation"])
        for name, batch in samples.items():
            _check_independence(problem, name, batch)
            _check_whole(problem, name, batch)
        leaks = [find_leak(problem.model, batch, LEAST_LEAK) for batch in samples.values()]
    for reason in (stray, *leaks):
        if reason:
            raise UnsupportedModelError(reason)
    with Gates(problem.model) as gates:
        _check_recorded(problem, gates, plain, max_edges)
        num_layers = _check_isolation(gates, samples)
        _check_gold(problem, num_layers)
        unused, without_gradient = _reach(problem, gates, samples)
    replay = _may_replay(problem.model, samples)
    return Findings(num_layers, replay, without_gradient, unused, problem.data())


def check_splits(problem: Problem) -> None:
    """Raise UserError unless there are the three splits, with graphs and messages in each."""
    missing = [name for name in SPLITS if name not in problem.splits]
    if missing:
        raise UserError(
            f"expected splits {', '.join(SPLITS)}; got {', '.join(problem.splits) or 'none'}: add {', '.join(missing)}"
        )
    for name in SPLITS:
        graphs = problem.splits[name].graphs
        if not isinstance(graphs, GraphBatch):
            raise UserError(f"split {name!r}: expected a GraphBatch; got {type(graphs).__name__}: use from_data_list")
        if not isinstance(problem.splits[name].labels, Tensor):
            got = type(problem.splits[name].labels).__name__
            raise UserError(f"split {name!r}: expected labels as a tensor; got {got}: use torch.as_tensor(labels)")
        try:
            check_batch(graphs)  # once more: it may have been changed since
        except UserError as error:
            raise UserError(f"split {name!r}: {error}") from None
        if not graphs.num_graphs:
            raise UserError(f"split {name!r}: expected at least one graph; got none: make it larger")
        if not graphs.num_edges:
            raise UserError(f"split {name!r}: expected at least one edge; got {graphs.num_graphs} graphs without any")


def _check_precision(problem: Problem) -> None:
    for name, value in [*problem.model.named_parameters(), *problem.model.named_buffers()]:
        _refuse_half(f"the model's {name!r}", value)
    for split in SPLITS:
        graphs = problem.splits[split].graphs
        for level in (graphs.node, graphs.edge, graphs.graph):
            for name, value in level.items():
                _refuse_half(f"{name!r} of split {split!r}", value)


def _refuse_half(what: str, value: Tensor) -> None:
    if value.is_floating_point() and value.dtype not in TOLERANCES:
        raise UserError(
            f"expected float32 or float64; {what} is {value.dtype}, too coarse for gates and their gradients: use "
            "model.float() and graphs.to(torch.float32)"
        )


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
        logits = torch.cat(_plain_outputs(problem, "validation", max_edges))
    split = problem.splits["validation"]
    return problem.output.fitted(logits, split.labels, split.graphs)


def sample(graphs: GraphBatch) -> GraphBatch:
    """Return at most 32 graphs: the first, the last, the smallest, the largest, and others at random."""
    count, sizes = graphs.num_graphs, graphs.num_edges_per_graph
    with_edges = torch.where(sizes > 0, sizes, sizes.max() + 1)  # of the smallest, one with and one without messages
    chosen = [0, count - 1, int(sizes.argmin()), int(with_edges.argmin()), int(sizes.argmax())]
    chosen += torch.randperm(count, generator=generator("examination"))[:MOST].tolist()
    index = sorted(list(dict.fromkeys(chosen))[:MOST])
    return graphs.select(torch.tensor(index, device=graphs.device))


def _plain_outputs(problem: Problem, name: str, max_edges: int) -> list[Tensor]:
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
        raise UserError(
            f"split {name!r}: expected logits; got probabilities, of which a second softmax or sigmoid would be taken: "
            "return what comes before it, or their logarithms (of one probability p, its torch.logit)"
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


def _check_repetition(model: nn.Module, graphs: GraphBatch, others: GraphBatch) -> None:
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
    name = type(model).__name__
    if not _same(first, again):
        raise UnsupportedModelError(
            f"expected the same output for the same graphs; {name} gives another one in the second pass: it keeps "
            "something from pass to pass, draws from a generator of its own, or changes its graphs or weights"
        )
    if not (_same(first, other) and _same(passed(1, grad=True), passed(2, grad=True))):
        raise UnsupportedModelError(
            f"expected the same output for the same graphs in evaluation mode; {name} draws at random: give functions "
            "such as F.dropout and dropout_edge training=self.training"
        )


def _check_independence(problem: Problem, name: str, graphs: GraphBatch) -> None:
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


def _check_whole(problem: Problem, name: str, graphs: GraphBatch) -> None:
    """Where graphs are neighbourhoods, their outputs are those of the whole graph."""
    if problem.whole is not None:
        reason = check_neighbourhoods(problem.model, problem.output, problem.whole, graphs)
        if reason is not None:
            raise UserError(f"split {name!r}: {reason}")


def _check_recorded(problem: Problem, gates: Gates, plain: dict[str, list[Tensor]], max_edges: int) -> None:
    """The recorded pass, decode(encode(graphs)), gives what model(graphs) gives, on every graph."""
    for name in SPLITS:
        for part, expected in zip(problem.splits[name].graphs.parts(max_edges), plain[name], strict=True):
            got = gates.record(part.batch).logits
            if got.shape != expected.shape or not _same(got, expected):
                own = type(problem.model).forward.__qualname__.partition(".")[0]
                raise UnsupportedModelError(
                    f"split {name!r}: expected model(graphs) to be decode(encode(graphs)); {own}.forward() gives "
                    "another output, which methods would not explain: move what it does into decode()"
                )


@torch.no_grad()
def _check_isolation(gates: Gates, samples: dict[str, GraphBatch]) -> int:
    """With all gates open the model's own output comes back, also after another batch was recorded; return L."""
    model = gates.model
    first, second = samples["test"], samples["validation"]
    recording = gates.record(first)
    for what in ("", " after another batch was recorded"):
        if not _same(recording.forward(recording.ones()), recording.logits):
            raise UnsupportedModelError(
                f"expected the model's own output with all gates open; {type(model).__name__} gives another{what}: it "
                "keeps something from pass to pass, or changes in place what it has passed on"
            )
        other = gates.record(second)
    depths = [recording.num_layers, other.num_layers, gates.record(samples["train"]).num_layers]
    if len(set(depths)) > 1:
        raise UnsupportedModelError(
            f"expected as many message-passing calls for all graphs; {type(model).__name__} makes {min(depths)} to "
            f"{max(depths)}: use a fixed number of layers"
        )
    return recording.num_layers


def _check_gold(problem: Problem, num_layers: int) -> None:
    for name in SPLITS:
        split: Split = problem.splits[name]
        gold, edges = split.gold, split.graphs.num_edges
        if gold is None:
            continue
        if not isinstance(gold, Tensor) or gold.dtype != torch.bool:
            got = gold.dtype if isinstance(gold, Tensor) else type(gold).__name__
            raise UserError(f"split {name!r}: expected bool gold; got {got}: compare with > 0")
        if tuple(gold.shape) not in ((num_layers, edges), (1, edges)):
            raise UserError(
                f"split {name!r}: expected gold of shape {(num_layers, edges)}, or {(1, edges)} where only the union "
                f"of the layers is known; got {tuple(gold.shape)}"
            )
    shapes = {len(gold) for name in SPLITS if (gold := problem.splits[name].gold) is not None}
    if len(shapes) > 1:
        raise UserError(
            f"expected gold of one kind; got ({num_layers}, E) in one split and (1, E) in another: give every layer's "
            "for all, or the union of the layers (gold.any(0, keepdim=True))"
        )
    with_gold = [name for name in SPLITS if problem.splits[name].gold is not None]
    if "test" in with_gold and "validation" not in with_gold:
        raise UserError("expected gold of the validation split, too, by which thresholds are chosen; got none")


def _reach(problem: Problem, gates: Gates, samples: dict[str, GraphBatch]) -> tuple[list[int], list[int]]:
    """Return the layers whose gates change no output, and those whose gates do though no gradient reaches them."""
    changes: set[int] = set()
    gradients: set[int] = set()
    for name, graphs in samples.items():
        recording = gates.record(graphs)
        layers = range(recording.num_layers)
        for k in layers:
            closed = recording.ones()
            closed[k] = 0
            with torch.no_grad():
                if not _same(recording.forward(closed), recording.logits):
                    changes.add(k)
        with torch.no_grad():
            _check_closed(problem.output, name, recording.logits, recording.forward(recording.ones() * 0), graphs)
        gradients |= _layers_with_gradient(recording)
    return sorted(set(layers) - changes - gradients), sorted(changes - gradients)


def _layers_with_gradient(recording: Recording) -> set[int]:
    """Return the layers whose gates get a gradient somewhere: where all are open a sound model may be saturated."""
    draw = generator("examination", "reach")
    weights = torch.rand(recording.logits.shape, generator=draw, dtype=torch.float64).to(recording.logits)
    reached: set[int] = set()
    for level in LEVELS_TRIED:
        z = [row.requires_grad_() for row in (recording.ones() * level).unbind()]
        logits = recording.forward(z)
        if not logits.requires_grad:
            continue
        found = torch.autograd.grad((logits * weights).sum(), z, allow_unused=True)
        reached |= {k for k, gradient in enumerate(found) if gradient is not None and bool((gradient != 0).any())}
    return reached


def _check_closed(output: Output, name: str, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> None:
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


def _may_replay(model: Any, samples: dict[str, GraphBatch]) -> bool:
    """Say whether the first call's ``message()`` can be left out: it leaves nothing behind, and no output changes."""
    with Gates(model) as gates, torch.no_grad(), _watched_messages(gates) as leaves_something:
        for name in ("test", "validation"):
            gates.record(samples[name])
        if leaves_something:
            return False
    with Gates(model, replay=True) as gates, torch.no_grad():
        recordings = [gates.record(samples[name]) for name in ("test", "validation")]
        return all(_same(recording.forward(recording.ones()), recording.logits) for recording in recordings)


@contextmanager
def _watched_messages(gates: Gates) -> Iterator[list[str]]:
    """Note the layers that are not what they were, their children included, after their ``message()``."""
    found: list[str] = []
    before: dict[nn.Module, Any] = {}
    handles = []
    for layer in gates.layers:
        handles += [
            layer.register_message_forward_pre_hook(lambda m, _: before.update({m: module_state(m)})),
            layer.register_message_forward_hook(
                lambda m, *_: found.append(type(m).__name__) if module_state(m) != before.pop(m) else None
            ),
        ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _same(a: Tensor, b: Tensor) -> bool:
    """Say whether two passes over one batch gave the same: bit for bit on the CPU."""
    if a.shape != b.shape:
        return False
    if a.device.type == "cpu":
        return torch.equal(a, b)
    return bool(((a - b).abs() <= CUDA_TOLERANCE * b.abs().max().clamp(min=1)).all())
