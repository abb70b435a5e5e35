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

from attribench.base.errors import Infeasible
from attribench.base.seeds import derive, generator
from attribench.model.graphs import GraphBatch
from attribench.model.hard_concrete import HardConcrete, straight_through_round
from attribench.model.recording import Recording, Stream
from attribench.plugins.method import Attribution, Method, config
from attribench.plugins.registry import METHODS

GRAPHS_AT_ONCE = 500
"""Graphs of one pass of ``attribute``; the inputs of a larger batch outgrow the processor's caches."""


@config
class GraphMaskConfig:
    """Options. Defaults were chosen on development seeds (1000 to 1011), not on those that are scored."""

    steps: int = Field(2000, ge=1, description="most training steps once every layer is gated")
    steps_per_layer: int = Field(
        400, ge=1, description="delta of Appendix C: steps before the next lower layer is gated"
    )
    batch_size: int = Field(32, ge=1, description="graphs per step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam, for gates")
    baseline_learning_rate: float = Field(1e-4, gt=0, description="Adam, for baselines; see the note in Lagrangian")
    multiplier_learning_rate: float = Field(1e-2, gt=0, description="centred RMSProp, for the multiplier")
    multiplier_start: float = Field(5.0, description="raw multiplier; its softplus multiplies; clamped to [-2, 30]")
    sparsity_weight: float = Field(5.0, gt=0, description="weight of the mean expected L0 beside the constraint")
    gradient_clip: float = Field(0.3, gt=0, description="largest norm of the probe's gradient; see the same note")
    tolerance: float = Field(0.03, ge=0, description="beta of Eq. 5, nats of D*")
    relu: bool = Field(True, description="relu around D* - beta, per graph (the released code); Eq. 5 has none")
    hidden: int = Field(0, ge=0, description="width of the gate network; 0 takes the width of the message")
    temperature: float = Field(1 / 3, gt=0, description="tau of Eq. 12")
    stretch_low: float = Field(-0.2, le=0, description="l of Eq. 12")
    stretch_high: float = Field(1.0, ge=1, description="r of Eq. 12")
    location_bias: float = Field(2.0, description="c of Appendix B: gates start open")
    margin: float = Field(1.0, ge=0, description="standard errors of D* on validation that must be within it as well")
    check_every: int = Field(50, ge=1, description="steps between validations, from which the checkpoint is chosen")
    patience: int = Field(4, ge=1, description="validations outside the tolerance before the best one is restored")
    restored_raise: float = Field(2.0, ge=0, description="what the raw multiplier rises by on restoring")
    max_retained: float = Field(0.95, gt=0, le=1, description="retaining more than this share is a collapse")
    stop_after: int = Field(
        12, ge=1, description="validations without a sparser probe, since one was restored, that end it"
    )
    restarts: int = Field(1, ge=0, description="further attempts, from derived seeds, after a collapse")


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
    """A state of the probe and what it does on the validation graphs.

    Args:
        state: of the probe.
        divergence: mean D* in nats.
        bound: mean D* and its standard errors, which has to be within the tolerance: of many checkpoints, the sparsest
            is one whose mean happens to be small.
        retained: share of messages.
    """

    state: dict[str, Tensor]
    divergence: float
    bound: float
    retained: float

    def rank(self, tolerance: float) -> tuple[bool, float, float]:
        """Return what checkpoints are ordered by: feasible ones first, then the sparsest, then the smallest D*."""
        return self.bound > tolerance, self.retained, self.bound


@METHODS.register
class GraphMask(Method):
    """Amortized GraphMask: learned hard gates and baselines (Schlichtkrull et al. 2021).

    Score: P(z != 0). Hard mask: the gate at the median of its noise, rounded as in training. The checkpoint is the
    sparsest whose mean D* on validation is within the tolerance.
    """

    name = "graphmask"
    Config = GraphMaskConfig
    quick = {
        "steps": 40,
        "steps_per_layer": 5,
        "stop_after": 10**9,
        "tolerance": 1e6,
        "max_retained": 1.0,
        "restarts": 0,
    }
    steps_option = ("steps", "fit")
    decides = True
    fewest_to_fit = 50
    config: GraphMaskConfig

    def fit(self) -> None:
        """Train the probe; restart from a derived seed after a collapse."""
        self.distribution = HardConcrete(self.config.temperature, self.config.stretch_low, self.config.stretch_high)
        found: list[Checkpoint] = []
        for attempt in range(self.config.restarts + 1):
            best = self._train(derive("graphmask", self.seed, attempt))
            if best.bound <= self.config.tolerance and best.retained <= self.config.max_retained:
                self.probe.load_state_dict(best.state)
                self.figures = {
                    "restarts": attempt,
                    "restored": self.restored,
                    "divergence": best.divergence,
                    "retained": best.retained,
                }
                return
            found.append(best)
        nearest = min(found, key=lambda c: c.bound)
        raise Infeasible(
            f"no probe in {self.config.restarts + 1} attempts keeps mean D* on validation, and {self.config.margin:g} "
            f"standard errors of it, within {self.config.tolerance:g} while closing gates; the nearest has D* "
            f"{nearest.divergence:.3g} and retains {nearest.retained:.1%}"
        )

    def _train(self, seed: int) -> Checkpoint:
        """Run one attempt and return its sparsest feasible checkpoint.

        Layers are gated from the top (Appendix C). A layer's gates start open, so that there is a feasible checkpoint
        from the start; training goes back to the best one before the next layer is gated, and when it has been
        infeasible for a while: closed gates have no gradient and do not open again.
        """
        config, num_layers = self.config, self.subject.num_layers
        noise = generator("gates", seed)
        total = config.steps_per_layer * (num_layers - 1) + config.steps
        self.restored = 0
        with self.gates() as gates:
            validation = gates.stream(self.subject.validation, self.subject.max_edges)
            self.probe = build_probe(next(validation.recordings())[1], config, seed)
            lagrangian = Lagrangian(self.probe, config)
            batches = iter(self.track(self._batches(total, seed), "training", total=total))
            best = self._check(validation, num_layers - 1)
            for lowest in reversed(range(num_layers)):
                self.probe.load_state_dict(best.state)
                best = self._check(validation, lowest)
                strikes = stale = 0
                steps = config.steps_per_layer if lowest else config.steps
                for step in range(1, steps + 1):
                    lagrangian.step(*self._objective(gates.record(next(batches)), lowest, noise))
                    if step % config.check_every and step < steps:
                        continue
                    now = self._check(validation, lowest)
                    stale += 1
                    if now.rank(config.tolerance) < best.rank(config.tolerance):
                        best, stale = now, 0
                    if stale == config.stop_after and not lowest:
                        break
                    strikes = strikes + 1 if now.bound > config.tolerance else 0
                    if strikes == config.patience:
                        self.probe.load_state_dict(best.state)
                        lagrangian.restart()
                        self.restored += 1
                        strikes = stale = 0
        return best

    def _batches(self, total: int, seed: int) -> Iterator[GraphBatch]:
        """Yield minibatches of the training graphs, in a new order in every epoch."""
        shuffle = generator("batches", seed)
        epochs = (self.subject.train.minibatches(self.config.batch_size, shuffle) for _ in count())
        return (batch for _, batch in islice(chain.from_iterable(epochs), total))

    def _objective(self, recording: Recording, lowest: int, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the mean expected L0 per gated message (Eq. 11) and the mean excess of D* over beta (Eq. 5)."""
        graphs = recording.graphs
        locations = self.probe(recording, lowest)
        # Fitting sees batches that it draws itself: their noise need not be that of a graph in any batch.
        uniform = torch.rand(locations.shape, generator=noise, dtype=locations.dtype).clamp(1e-6, 1 - 1e-6)
        z = straight_through_round(self.distribution.sample(locations, uniform.to(locations.device)))
        logits = recording.forward([*[None] * lowest, *z], self.probe.baselines())
        excess = self.subject.output.divergence(recording.logits, logits, graphs) - self.config.tolerance
        # the mean over graphs of their means
        share = graphs.num_edges_per_graph.to(locations.dtype).reciprocal()[graphs.edge_graph] / graphs.num_graphs
        expected = self.distribution.probability_nonzero(locations).mean(0) @ share
        return expected, (excess.relu() if self.config.relu else excess).mean()

    @torch.no_grad()
    def _check(self, validation: Stream, lowest: int) -> Checkpoint:
        """Judge the probe as it will be used, with the hard mask, on the validation graphs; lower layers are open."""
        masks, outputs = [], []
        for _, recording in validation.recordings():
            masks.append(self.distribution.median(self.probe(recording, lowest)) > 0.5)
            closing = [*[None] * lowest, *masks[-1].to(recording.logits.dtype)]
            outputs.append(recording.forward(closing, self.probe.baselines()))
        mask, logits = torch.cat(masks, dim=1), torch.cat(outputs)
        divergence = self.subject.output.divergence(validation.logits, logits, validation.graphs)
        retained = (lowest + float(mask.double().mean(1).sum())) / validation.num_layers
        error = float(divergence.std(correction=0)) / len(divergence) ** 0.5
        mean = float(divergence.mean())
        return Checkpoint(deepcopy(self.probe.state_dict()), mean, mean + self.config.margin * error, retained)

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


class Lagrangian:
    """One step down in the probe's parameters and up in the multiplier.

    Two things keep it from a collapse, in which gates close that matter and do not open again. The gradient is clipped:
    else the first gate that closes wrongly sends one thousands of times larger than the penalty's, Adam's second moment
    remembers it, and the penalty moves nothing for the rest of training. And baselines learn slowly: else they make up
    for a layer that closes altogether while it closes (a baseline that says "perhaps" everywhere costs little when most
    graphs are undecided anyway), and no single gate that opens again is an improvement.
    """

    def __init__(self, probe: Probe, config: GraphMaskConfig) -> None:
        self._config = config
        self._gates = [parameter for network in probe.networks for parameter in network.layers.parameters()]
        self._baselines = probe.baselines()
        self._parameters = [*self._gates, *self._baselines]
        self._raw = self._baselines[0].new_full((), config.multiplier_start).requires_grad_()
        self._raw_optimizer = torch.optim.RMSprop(
            [self._raw], lr=config.multiplier_learning_rate, centered=True, maximize=True
        )
        self._optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.Optimizer:
        groups = [
            {"params": self._gates, "lr": self._config.learning_rate},
            {"params": self._baselines, "lr": self._config.baseline_learning_rate},
        ]
        return torch.optim.Adam(groups, fused=True)

    def step(self, penalty: Tensor, excess: Tensor) -> None:
        """Update all parameters from the mean penalty and the mean excess of D* over the tolerance."""
        for parameter in (*self._parameters, self._raw):
            parameter.grad = None
        loss = self._config.sparsity_weight * penalty + F.softplus(self._raw) * excess
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, self._config.gradient_clip)
        self._optimizer.step()
        self._raw_optimizer.step()
        with torch.no_grad():
            self._raw.clamp_(-2, 30)

    def restart(self) -> None:
        """Forget the moments, and weigh the constraint more."""
        self._optimizer = self._new_optimizer()
        with torch.no_grad():
            self._raw += self._config.restored_raise


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
