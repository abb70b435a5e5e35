"""Amortized GraphMask: Schlichtkrull, De Cao & Titov, ICLR 2021, Eq. 3-7, 11-12, Appendices A-C.

A small network per layer reads [h_u, h_v, m] from the unmasked pass and predicts the location of a hard concrete gate;
a closed gate replaces the message by a learned baseline b(k). Trained on the training graphs to keep as few messages as
the tolerance beta on D* allows (Eq. 5), with one Lagrange multiplier.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, count, islice

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attribench.errors import Infeasible
from attribench.gates import Recording
from attribench.graphs import GraphBatch
from attribench.hard_concrete import HardConcrete, straight_through_round
from attribench.method import Attribution, Method, config
from attribench.noise import EdgeNoise
from attribench.registry import METHODS
from attribench.seeds import derive, generator

GRAPHS_AT_ONCE = 500
"""Graphs of one pass of ``attribute``; the inputs of a larger batch outgrow the processor's caches."""


@config
class GraphMaskConfig:
    """Options. Defaults were chosen on development seeds (1000 to 1011 of `toy`), not on those that are scored."""

    steps: int = Field(800, ge=1, description="training steps once every layer is gated")
    steps_per_layer: int = Field(
        400, ge=1, description="delta of Appendix C: steps before the next lower layer is gated"
    )
    batch_size: int = Field(32, ge=1, description="graphs per step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam, for gates and baselines")
    multiplier_learning_rate: float = Field(1e-2, gt=0, description="centred RMSProp, for the multiplier")
    multiplier_start: float = Field(5.0, description="raw multiplier; its softplus multiplies; clamped to [-2, 30]")
    sparsity_weight: float = Field(5.0, gt=0, description="weight of the mean expected L0 beside the constraint")
    gradient_clip: float = Field(0.3, gt=0, description="largest norm of the probe's gradient; see the note in _train")
    tolerance: float = Field(0.03, ge=0, description="beta of Eq. 5, nats per graph")
    relu: bool = Field(True, description="relu around D* - beta, per graph (the released code); Eq. 5 has none")
    hidden: int = Field(0, ge=0, description="width of the gate network; 0 takes the width of the message")
    temperature: float = Field(1 / 3, gt=0, description="tau of Eq. 12")
    stretch_low: float = Field(-0.2, le=0, description="l of Eq. 12")
    stretch_high: float = Field(1.0, ge=1, description="r of Eq. 12")
    location_bias: float = Field(2.0, description="c of Appendix B: gates start open")
    check_every: int = Field(50, ge=1, description="steps between validations, from which the checkpoint is chosen")
    max_retained: float = Field(0.95, gt=0, le=1, description="retaining more than this share is a collapse")
    restarts: int = Field(3, ge=0, description="further attempts, from derived seeds, after a collapse")


class GateNetwork(nn.Module):
    """g of Eq. 4 for one layer: gamma = W2 ReLU(LN(W1 q)) (Eq. 7), and the layer's baseline b."""

    def __init__(self, inputs: int, width: int, hidden: int, bias: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.baseline = nn.Parameter(torch.zeros(width))
        self.bias = bias

    def forward(self, q: Tensor) -> Tensor:
        """Return locations gamma + c ``(E,)`` for ``q`` ``(E, 2 H + D)``."""
        location: Tensor = self.layers(q)[:, 0] + self.bias
        return location


@dataclass(frozen=True)
class Checkpoint:
    """A state of the probe and what it does on the validation graphs: mean D* in nats, and the retained share."""

    state: dict[str, Tensor]
    divergence: float
    retained: float


@METHODS.register
class GraphMask(Method):
    """Amortized GraphMask: learned hard gates and baselines (Schlichtkrull et al. 2021).

    Score: P(z != 0). Hard mask: the gate at the median of its noise, rounded as in training. The checkpoint is the
    sparsest whose mean D* on validation is within the tolerance.
    """

    name = "graphmask"
    Config = GraphMaskConfig
    quick = {"steps": 40, "steps_per_layer": 5, "check_every": 20, "tolerance": 1e6, "max_retained": 1.0, "restarts": 0}
    steps_option = ("steps", "fit")
    decides = True
    config: GraphMaskConfig

    def fit(self) -> None:
        """Train the probe; restart from a derived seed after a collapse."""
        self.distribution = HardConcrete(self.config.temperature, self.config.stretch_low, self.config.stretch_high)
        found: list[Checkpoint] = []
        for attempt in range(self.config.restarts + 1):
            checkpoints = self._train(derive("graphmask", self.seed, attempt))
            feasible = [c for c in checkpoints if c.divergence <= self.config.tolerance]
            best = min(feasible, key=lambda c: (c.retained, c.divergence), default=None)
            if best is not None and best.retained <= self.config.max_retained:
                self.probe.load_state_dict(best.state)
                self.figures = {"restarts": attempt, "divergence": best.divergence, "retained": best.retained}
                return
            found += checkpoints
        nearest = min(found, key=lambda c: c.divergence)
        raise Infeasible(
            f"no probe in {self.config.restarts + 1} attempts keeps mean D* <= {self.config.tolerance:g} on validation "
            f"while closing gates; the nearest has D* {nearest.divergence:.3g} and retains {nearest.retained:.1%}"
        )

    def _train(self, seed: int) -> list[Checkpoint]:
        """Run one attempt and return its checkpoints, which begin once all layers are gated."""
        config = self.config
        checkpoints: list[Checkpoint] = []
        with self.gates() as gates:
            validation = gates.record(self.subject.validation)
            self.probe = build_probe(validation, config, seed)
            parameters = list(self.probe.parameters())
            optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
            raw = validation.logits.new_full((), config.multiplier_start).requires_grad_()
            raw_optimizer = torch.optim.RMSprop([raw], lr=config.multiplier_learning_rate, centered=True, maximize=True)
            total = config.steps_per_layer * (self.subject.num_layers - 1) + config.steps
            for step, lowest, batch in self.track(self._schedule(total, seed), "training", total=total):
                penalty, excess = self._objective(gates.record(batch), lowest, seed, step)
                optimizer.zero_grad()
                raw_optimizer.zero_grad()
                (config.sparsity_weight * penalty + F.softplus(raw) * excess).backward()
                # Without this, the first gate that closes wrongly sends a gradient thousands of times larger than the
                # penalty's; Adam's second moment remembers it, and the penalty moves nothing for the rest of training.
                nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
                optimizer.step()
                raw_optimizer.step()
                with torch.no_grad():
                    raw.clamp_(-2, 30)
                if lowest == 0 and ((step + 1) % config.check_every == 0 or step + 1 == total):
                    checkpoints.append(self._check(validation))
        return checkpoints

    def _schedule(self, total: int, seed: int) -> Iterator[tuple[int, int, GraphBatch]]:
        """Yield (step, lowest gated layer, batch): layers are gated from the top (Appendix C)."""
        shuffle = generator("batches", seed)
        epochs = (self.subject.train.minibatches(self.config.batch_size, shuffle) for _ in count())
        for step, (_, batch) in enumerate(islice(chain.from_iterable(epochs), total)):
            yield step, max(0, self.subject.num_layers - 1 - step // self.config.steps_per_layer), batch

    def _objective(self, recording: Recording, lowest: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the mean expected L0 per gated message (Eq. 11) and the mean excess of D* over beta (Eq. 5)."""
        graphs = recording.graphs
        locations = self.probe(recording, lowest)
        uniform = EdgeNoise(graphs, recording.num_layers, seed).uniform(step, recording.logits.dtype)[lowest:]
        z = straight_through_round(self.distribution.sample(locations, uniform))
        logits = recording.forward([*[None] * lowest, *z], self.probe.baselines())
        divergence = self.subject.output.divergence(recording.logits, logits, graphs)
        excess = divergence - self.config.tolerance
        share = graphs.num_edges_per_graph.to(locations.dtype).reciprocal()[graphs.edge_graph] / graphs.num_graphs
        expected = (
            self.distribution.probability_nonzero(locations).mean(0) @ share
        )  # the mean over graphs of their means
        return expected, (excess.relu() if self.config.relu else excess).mean()

    @torch.no_grad()
    def _check(self, validation: Recording) -> Checkpoint:
        """Judge the probe as it will be used: with the hard mask, on the validation graphs."""
        mask = self.distribution.median(self.probe(validation)) > 0.5
        logits = validation.forward(mask.to(validation.logits.dtype), self.probe.baselines())
        divergence = self.subject.output.divergence(validation.logits, logits, validation.graphs)
        return Checkpoint(deepcopy(self.probe.state_dict()), float(divergence.mean()), float(mask.double().mean()))

    @torch.no_grad()
    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Predict all gates of a batch from one unmasked pass."""
        with self.gates() as gates:
            parts = [self.probe(gates.record(part)) for _, part in graphs.minibatches(GRAPHS_AT_ONCE)]
        locations = torch.cat(parts, dim=1)
        return Attribution(
            scores=self.distribution.probability_nonzero(locations),
            hard_mask=self.distribution.median(locations) > 0.5,
            baselines=tuple(b.detach().clone() for b in self.probe.baselines()),
        )


class Probe(nn.Module):
    """One gate network per layer."""

    def __init__(self, networks: list[GateNetwork]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(networks)
        self.networks = networks

    def forward(self, recording: Recording, lowest: int = 0) -> Tensor:
        """Return the locations ``(L - lowest, E)`` of the layers from ``lowest`` up."""
        calls = zip(self.networks[lowest:], recording.calls[lowest:], strict=True)
        return torch.stack([network(call.inputs()) for network, call in calls])

    def baselines(self) -> list[Tensor]:
        """Return b(k) ``(D,)`` of every layer."""
        return [network.baseline for network in self.networks]


def build_probe(recording: Recording, config: GraphMaskConfig, seed: int) -> Probe:
    """Build gate networks to fit the recorded calls, initialised from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("probe", seed))
        networks = [
            GateNetwork(call.inputs().shape[1], call.width, config.hidden or call.width, config.location_bias)
            for call in recording.calls
        ]
    return Probe(networks).to(recording.logits)
