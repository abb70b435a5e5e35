"""Non-amortized GraphMask: Schlichtkrull, De Cao & Titov, ICLR 2021, Section 3.2 (footnote 3) and Eq. 5, 11-12.

Every edge and layer of every graph has a location parameter of its own, optimised on the graph that is explained; so
have the Lagrange multiplier and the baseline. All graphs of a batch are optimised at once: every term is summed over
graphs, and Adam and RMSProp act elementwise.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attribench.base.seeds import derive
from attribench.model.graphs import GraphBatch
from attribench.model.hard_concrete import HardConcrete, straight_through_round
from attribench.model.noise import EdgeNoise
from attribench.model.recording import Recording
from attribench.plugins.method import Attribution, Method, Subject, config
from attribench.plugins.registry import METHODS
from attribench.plugins.rival import Rival

from ._constraint import MAX_CHANGED, TOLERANCE, Constraint
from ._settling import NEARLY_ALL, Course


@config
class NonAmortizedConfig:
    """Options. Steps and the kind of baseline are the released code's; its scalar baseline is a slip for a vector."""

    steps: int = Field(2000, ge=1, description="Adam steps per graph")
    learning_rate: float = Field(0.01, gt=0, description="Adam, for locations and baselines")
    multiplier_learning_rate: float = Field(1e-2, gt=0, description="centred RMSProp, for the multipliers")
    multiplier_start: float = Field(5.0, description="raw multiplier; its softplus multiplies; clamped to [-2, 30]")
    sparsity_weight: float = Field(5.0, gt=0, description="weight of the mean expected L0 beside the constraint")
    tolerance: float = Field(TOLERANCE, ge=0, description="beta of Eq. 5, nats of D*")
    max_changed: float = Field(
        MAX_CHANGED,
        ge=0,
        le=1,
        description="as graphmask's, of each graph: where it has few predictions, all stay; 1 for D* alone",
    )
    relu: bool = Field(True, description="relu around D* - beta; Eq. 5 has none")
    baseline: Literal["none", "scalar", "vector", "training"] = Field(
        "scalar", description="per graph and layer, except training: a vector per layer learned on training graphs"
    )
    training_graphs: int = Field(500, ge=1, description="training graphs for baseline=training")
    temperature: float = Field(1 / 3, gt=0, description="tau of Eq. 12")
    stretch_low: float = Field(-0.2, le=0, description="l of Eq. 12")
    stretch_high: float = Field(1.0, ge=1, description="r of Eq. 12")
    location_bias: float = Field(2.0, description="c of Appendix B: gates start open")
    check_every: int = Field(50, ge=1, description="steps between checks, from which each graph's mask is chosen")


def explain_one_at_a_time(subject: Subject, graphs: GraphBatch, options: Any) -> Attribution:
    """Run the same loop; ``bench`` calls it with one graph at a time."""
    return NonAmortizedGraphMask(options, subject=subject).attribute(graphs)


@METHODS.register
class NonAmortizedGraphMask(Method):
    """Non-amortized GraphMask: hard concrete gates optimised on each graph (Schlichtkrull et al. 2021).

    A graph's mask is the sparsest of those checked, all gates open included, that meets the constraint of
    ``graphmask``: D* is within the tolerance, and the prediction stays.
    Score: P(z != 0) at that check.
    """

    name = "graphmask-nonamortized"
    Config = NonAmortizedConfig
    quick = {"steps": 20, "check_every": 5}
    steps_option = ("steps", "attribute")
    decides = True
    rivals = (Rival("the same loop, one graph at a time", explain_one_at_a_time, sample=3),)
    config: NonAmortizedConfig

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._course = Course()
        self._messages = 0

    def fit(self) -> None:
        """Learn shared baselines on training graphs, where the option asks for these."""
        if self.config.baseline == "training":
            train = self.subject.train
            graphs = train.select(torch.arange(min(self.config.training_graphs, train.num_graphs), device=train.device))
            with self.gates() as gates:
                recording = gates.record(graphs)
                shared = [recording.logits.new_zeros(call.width, requires_grad=True) for call in recording.calls]
                self._optimise(recording, shared, learn=True)
            self.shared = [baseline.detach() for baseline in shared]
            self._course, self._messages = Course(), 0  # of the graphs that are explained alone

    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Optimise the gates of all graphs of the batch."""
        with self.gates() as gates:
            recording = gates.record(graphs)
            if self.config.baseline == "training":
                return self._optimise(recording, self.shared, learn=False)
            sizes = [call.width if self.config.baseline == "vector" else 1 for call in recording.calls]
            learn = self.config.baseline != "none"
            own = [recording.logits.new_zeros(graphs.num_graphs, size, requires_grad=learn) for size in sizes]
            return self._optimise(recording, own, learn=learn)

    def _optimise(self, recording: Recording, parameters: list[Tensor], *, learn: bool) -> Attribution:
        """Optimise locations, multipliers and, where ``learn``, the baselines."""
        config, graphs, output = self.config, recording.graphs, self.subject.output
        distribution = HardConcrete(config.temperature, config.stretch_low, config.stretch_high)
        location = (recording.ones() * config.location_bias).requires_grad_()
        raw = recording.logits.new_full((graphs.num_graphs,), config.multiplier_start).requires_grad_()
        learned = [location, *parameters] if learn else [location]
        optimizer = torch.optim.Adam(learned, lr=config.learning_rate, fused=True)
        raw_optimizer = torch.optim.RMSprop([raw], lr=config.multiplier_learning_rate, centered=True, maximize=True)
        noise = EdgeNoise(graphs, recording.num_layers, derive("nonamortized", self.seed))
        weight = config.sparsity_weight / (recording.num_layers * graphs.num_edges_per_graph)[graphs.edge_graph]
        best, course = _Best(recording), list[Tensor]()
        for step in self.track(range(config.steps), "optimising gates", total=config.steps):
            if step % config.check_every == 0:
                self._check(best, recording, distribution, location, parameters)
                course.append(best.kept.sum())
            z = straight_through_round(distribution.sample(location, noise.uniform(step, location.dtype)))
            logits = recording.forward(z, parameters)
            excess = output.divergence(recording.logits, logits, graphs) - config.tolerance
            excess = excess.relu() if config.relu else excess
            penalty = (weight * distribution.probability_nonzero(location)).sum()
            optimizer.zero_grad()
            raw_optimizer.zero_grad()
            (penalty + (F.softplus(raw) * excess).sum()).backward()
            optimizer.step()
            raw_optimizer.step()
            with torch.no_grad():
                raw.clamp_(-2, 30)
        self._check(best, recording, distribution, location, parameters)
        course.append(best.kept.sum())
        self._course.add(course)
        self._messages += int(best.messages.sum())
        retained = float(self._course.values[-1]) / max(1, self._messages)
        self.figures = {"unsettled": float(self._course.unsettled), "nearly_all": float(retained > NEARLY_ALL)}
        return Attribution(
            best.scores,
            hard_mask=best.mask,
            baselines=tuple(best.baselines),
            diagnostics={"all_open": ((best.kept == best.messages) & (best.messages > 0)).to(best.scores.dtype)},
        )

    @torch.no_grad()
    def _check(
        self, best: _Best, recording: Recording, distribution: HardConcrete, location: Tensor, parameters: list[Tensor]
    ) -> None:
        """Keep each graph's mask at the noise's median where it is sparser than the best and meets the constraint."""
        graphs = recording.graphs
        mask = distribution.median(location) > 0.5
        # Of the messages' width: a scalar stands for a constant vector.
        pairs = zip(parameters, recording.calls, strict=True)
        baselines = [b.expand(graphs.num_graphs, call.width) for b, call in pairs]
        logits = recording.forward(mask.to(location.dtype), baselines)
        divergence = self.subject.output.divergence(recording.logits, logits, graphs)
        changes = self.subject.output.changes(recording.logits, logits, graphs)
        kept = graphs.sum_per_graph(mask.long().sum(0))
        met = Constraint(self.config.tolerance, self.config.max_changed).met(divergence, *changes)
        better = met & ((kept < best.kept) | best.untouched)
        best.take(graphs, better, mask, distribution.probability_nonzero(location), baselines, kept)


class _Best:
    """The best mask of every graph so far; all open before the first check."""

    def __init__(self, recording: Recording) -> None:
        graphs = recording.graphs
        self.scores = recording.ones()
        self.mask = self.scores > 0
        self.messages = self.kept = recording.num_layers * graphs.num_edges_per_graph
        self.baselines = [self.scores.new_zeros(graphs.num_graphs, call.width) for call in recording.calls]
        self.untouched = torch.ones_like(self.kept, dtype=torch.bool)

    def take(
        self, graphs: GraphBatch, better: Tensor, mask: Tensor, scores: Tensor, baselines: list[Tensor], kept: Tensor
    ) -> None:
        """Replace what is kept of the graphs where ``better`` ``(G,)``."""
        edges = better[graphs.edge_graph]
        self.mask = torch.where(edges, mask, self.mask)
        self.scores = torch.where(edges, scores, self.scores)
        self.kept = torch.where(better, kept, self.kept)
        self.untouched = self.untouched & ~better
        pairs = zip(baselines, self.baselines, strict=True)
        self.baselines = [torch.where(better[:, None], new, old) for new, old in pairs]
