"""Is a problem what the harness takes it for? Tried once, after it is built and before any method sees it.

Every graph is passed twice, plainly and recorded: the output has the right shape, is finite, and is the same both ways.
On at most 32 graphs of each split the rest is tried: that a pass leaves nothing behind, that graphs do not see each
other, that the gates reach every message, and that gradients reach the gates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..model.gates import Gates, UnsupportedModelError
from ..model.integrity import evaluating
from ..model.refusals import compiled
from .outputs import check_whole, plain_outputs
from .plain_passes import check_independence, check_isolation, check_recorded, check_repetition
from .reach import may_replay, reach
from .splits import SPLITS, check_gold, check_precision, check_splits, sample
from .strays import find_leak, find_stray

if TYPE_CHECKING:
    from ..plugins.task import Problem


LEAST_LEAK = 1e-4
"""How far an output without messages may move with the edges' sources, of the largest absolute output."""


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
    check_precision(problem)
    reason = compiled(problem.model)
    if reason is not None:
        raise UnsupportedModelError(reason)
    with evaluating(problem.model), torch.no_grad():
        # First of all, with graphs of its own: a model that keeps something does so in its first pass.
        stray = find_stray(problem.model, (sample(problem.splits[name].graphs) for name in SPLITS))
        plain = {name: plain_outputs(problem, name, max_edges) for name in SPLITS}
        samples = {name: sample(problem.splits[name].graphs) for name in SPLITS}
        check_repetition(problem.model, samples["test"], samples["validation"])
        for name, batch in samples.items():
            check_independence(problem, name, batch)
            check_whole(problem, name, batch)
    if stray is not None:
        raise UnsupportedModelError(stray)
    with Gates(problem.model) as gates:
        check_recorded(problem, gates, plain, max_edges)
        num_layers = check_isolation(gates, samples)
        check_gold(problem, num_layers)
        unused, without_gradient = reach(problem, gates, samples)
    with evaluating(problem.model):  # last: where layers fuse messages, say, their own refusal names the cause
        leaks = [find_leak(problem.model, batch, LEAST_LEAK) for batch in samples.values()]
    for leak in filter(None, leaks):
        raise UnsupportedModelError(leak)
    replay = may_replay(problem.model, samples)
    return Findings(num_layers, replay, without_gradient, unused, problem.data())
