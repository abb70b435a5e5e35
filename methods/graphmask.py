"""Amortized GraphMask: Schlichtkrull, De Cao & Titov, ICLR 2021, Eq. 3-7, 11-12, Appendices A-C.

A small network per layer reads [h_u, h_v, m] from the unmasked pass and predicts the location of a hard concrete gate;
a closed gate replaces the message by a learned baseline b(k). Trained on the training graphs to keep as few messages as
the constraint allows (Eq. 5), with one Lagrange multiplier.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, count, repeat
from statistics import fmean
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from attribench.base.errors import Infeasible, UserError
from attribench.base.seeds import derive, generator
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.hard_concrete import HardConcrete
from attribench.model.recording import Recording, Stream
from attribench.plugins.method import Attribution, Method, config
from attribench.plugins.registry import METHODS

from ._constraint import MAX_CHANGED, TOLERANCE, Constraint, Sample, Verdict
from ._gate_networks import Probe
from ._settling import CHECKS, NEARLY_ALL, REST, fall
from ._updates import Controlled, Lagrangian, Rates, Update

GRAPHS_AT_ONCE = 500
"""Graphs of one pass of ``attribute``; the inputs of a larger batch outgrow the processor's caches."""

SAMPLES = ("validation", "held-out training")
"""What a probe is judged on."""

LEAST_GAIN = 0.01
"""Part of the retained share by which it has to fall, over as many checks as would end training, to go on."""

EQUAL = 0.02
"""Part of the retained share within which two checkpoints are as sparse as each other."""

LATELY = 6
"""Checks over which it is said how far the retained share fell, and the multiplier moved, at the end."""

FALLING, CHECKS_BACK = 0.95, 4
"""Part of the strain of so many checks ago that an infeasible probe has to be under to be on its way back."""

WAITED_FOR = 2
"""Times the patience, in checks, that a probe on its way back is waited for."""

MOST_EXCESS = 2.0
"""Parts of what is allowed that one infeasible check counts with, at most."""

BLOCKS = 100
"""Runs of neighbours that training graphs are held out in: all parts of sorted graphs are among them, and what belongs
together, such as the predicates of a sentence, is mostly on one side."""

MOST_HELD_OUT = 1000
"""Training graphs that are held out at most: more would say little more, and every check passes over them."""


@config
class GraphMaskConfig:
    """Options. Defaults were chosen on development seeds (from 1000 up), not on those that are scored."""

    steps: int = Field(
        2200,
        ge=1,
        description="training steps of one layer that are planned; what was in vain is made again, up to half as many",
    )
    steps_per_layer: int = Field(200, ge=1, description="planned steps for every further layer")
    batch_size: int = Field(32, ge=1, description="graphs per step")
    steps_per_batch: int = Field(
        2, ge=1, description="steps with the same graphs, each with new draws of gates: they share the unmasked pass"
    )
    learning_rate: float = Field(2e-3, gt=0, description="Adam, for gates")
    baseline_learning_rate: float = Field(
        1.5e-3, gt=0, description="Adam, for baselines in parts of the size of messages; it rises from 0 to this"
    )
    update: Literal["controlled", "paper", "released"] = Field(
        "controlled",
        description="of the multiplier: integral control of its logarithm; Eq. 5 by RMSProp; the same with a relu "
        "around each graph's D* - beta, as in the released code",
    )
    tolerance: float = Field(TOLERANCE, gt=0, description="beta of Eq. 5, nats of D*")
    max_changed: float = Field(
        MAX_CHANGED, ge=0, le=1, description="share of predictions that may change; 1 for D* alone, as in Eq. 5"
    )
    margin: float = Field(3.0, ge=0, description="standard errors of both that must be within the constraint as well")
    held_out: float = Field(
        0.2, ge=0, lt=1, description="share of the training graphs that the constraint is judged on, beside validation"
    )
    hidden: int = Field(64, ge=1, description="width of the gate networks")
    temperature: float = Field(1 / 3, gt=0, description="tau of Eq. 12")
    stretch_low: float = Field(-0.2, lt=0, description="l of Eq. 12; at 0 no gate would be closed but by rounding")
    stretch_high: float = Field(1.0, ge=1, description="r of Eq. 12")
    location_bias: float = Field(2.0, description="c of Appendix B: gates start open")
    location_bound: float = Field(5.0, gt=0, description="locations are within this of 0, so that gates can change")
    check_every: int = Field(50, ge=1, description="steps between checks, from which the checkpoint is chosen")
    patience: float = Field(
        12,
        gt=0,
        description="infeasible checks, none on the way back, before the best checkpoint is restored; each "
        "counts by how far it is beyond the constraint, at most twice",
    )
    stop_after: int = Field(
        12, ge=1, description="feasible checks over which the retained share fell by less than 1% that end training"
    )
    max_retained: float = Field(0.95, gt=0, le=1, description="retaining more than this share is a collapse")
    restarts: int = Field(1, ge=0, description="further attempts, from derived seeds, after a collapse")

    def __post_init__(self) -> None:
        bound = self.location_bound
        bounds = torch.tensor([-bound, min(self.location_bias, bound), bound], dtype=torch.float64)
        closed, start, opened = self.distribution.median(bounds).tolist()
        if not closed <= 0.5 < min(start, opened):
            raise UserError(
                "expected gates that start open and can close, with a median over 1/2 at location_bias and at most 1/2 "
                f"at -location_bound; got medians of {start:.3g} at the start and {closed:.3g} to {opened:.3g}: raise "
                "location_bias or location_bound, or take stretch_low and stretch_high nearer to 0 and 1"
            )

    @property
    def distribution(self) -> HardConcrete:
        """The distribution of gates."""
        return HardConcrete(self.temperature, self.stretch_low, self.stretch_high)


@dataclass(frozen=True)
class Checkpoint:
    """A state of the probe and what it does on graphs that it is not trained on.

    Args:
        state: of the probe.
        verdict: of the constraint.
        retained: share of messages.
        fullest: that of the sample of which most is retained.
    """

    state: dict[str, Tensor]
    verdict: Verdict
    retained: float
    fullest: float

    def rank(self) -> tuple[bool, float, float]:
        """Return what checkpoints are ordered by: feasible ones first, then the sparsest, then the least strained.

        Of checkpoints that are about as sparse, the sparsest is often the luckiest, or has used up what is allowed for
        a few messages.
        """
        sparsity = math.floor(math.log(self.retained) / EQUAL) if self.retained > 0 else -math.inf
        return not self.verdict.feasible, sparsity, self.verdict.strain


class _Progress:
    """What the checks of one stage of training have shown.

    Args:
        start: the checkpoint that it starts from.
        stop_after: feasible checks without a sparser one, once one was sparser, until it is settled.
        patience: infeasible checks that are not on their way back, each with its excess, until it is lost; and
            ``WAITED_FOR`` times as many at all.
    """

    def __init__(self, start: Checkpoint, stop_after: int, patience: float) -> None:
        self.best = start
        # the least share that was feasible, at the start and after every feasible check, and after every check at all
        self._least, self._course = [start.retained], [start.retained]
        self._strains: list[float] = []  # of the infeasible checks since the last feasible one
        self._strikes = 0.0
        self._feasible: list[bool] = []
        self._stop_after, self._patience = stop_after, patience

    @property
    def settled(self) -> bool:
        """Whether the share that is retained fell, and falls no longer."""
        return self._fell and len(self._least) > self._stop_after and fall(self._least, self._stop_after) <= LEAST_GAIN

    @property
    def at_rest(self) -> bool:
        """Whether it is settled, or was mostly feasible over the last checks and hardly fell."""
        enough = len(self._feasible) >= CHECKS and self.late_infeasible <= 0.5
        return self.settled or (enough and fall(self._course, CHECKS) < REST)

    @property
    def _fell(self) -> bool:
        return fall(self._least, len(self._least)) > LEAST_GAIN

    @property
    def late_fall(self) -> float:
        """The part of the least share by which it fell over the last checks."""
        return fall(self._course, LATELY)

    @property
    def late_infeasible(self) -> float:
        """The share of the last checks that were infeasible; 0 where there was none."""
        late = self._feasible[-CHECKS:]
        return 1 - sum(late) / len(late) if late else 0.0

    @property
    def lost(self) -> bool:
        """Whether it is infeasible for long, and does not come back."""
        return self._strikes >= self._patience or len(self._strains) >= WAITED_FOR * self._patience

    def add(self, now: Checkpoint) -> None:
        """Take note of a check."""
        self.best = min(self.best, now, key=Checkpoint.rank)
        strain = now.verdict.strain
        self._feasible.append(now.verdict.feasible)
        if now.verdict.feasible:
            self._least.append(min(self._least[-1], now.retained))
            self._strikes, self._strains = 0.0, []
        else:
            before = self._strains[-CHECKS_BACK] if len(self._strains) >= CHECKS_BACK else 0.0
            self._strains.append(strain)
            # a slight excess is left to the multiplier; what collapsed is 5 to 10 times beyond what is allowed
            self._strikes = 0.0 if strain < FALLING * before else self._strikes + min(strain - 1, MOST_EXCESS)
        self._course.append(self._least[-1])

    def restore(self) -> Checkpoint:
        """Return the best checkpoint, to go on from."""
        self._strikes, self._strains = 0.0, []
        return self.best


@dataclass
class _Steps:
    """The steps of one attempt: as many as are planned, and half as many to spare.

    Args:
        planned: steps of all stages.
    """

    planned: int

    def __post_init__(self) -> None:
        self.left, self.spare, self.made = self.planned, self.planned // 2, 0

    def more(self, wanted: int) -> int:
        """Return how many of the steps to spare are made."""
        granted = min(self.spare, wanted)
        self.spare -= granted
        return granted


@METHODS.register
class GraphMask(Method):
    """Amortized GraphMask: learned hard gates and baselines (Schlichtkrull et al. 2021).

    Score: P(z != 0). Hard mask: the gate at the median of its noise, rounded as in training. The checkpoint is the
    sparsest that meets the constraint on validation graphs and held-out training graphs; of those about as sparse, the
    one that is furthest within it.
    """

    name = "graphmask"
    Config = GraphMaskConfig
    quick = {
        "steps": 40,
        "steps_per_layer": 5,
        "stop_after": 10**9,
        "tolerance": 1e6,
        "max_changed": 1.0,
        "max_retained": 1.0,
        "restarts": 0,
    }
    steps_option = ("steps", "fit")
    decides = True
    fewest_to_fit = 50
    config: GraphMaskConfig

    def fit(self) -> None:
        """Train the probe; restart from a derived seed after a collapse."""
        config = self.config
        self.distribution = config.distribution
        self.constraint = Constraint(config.tolerance, config.max_changed, config.margin)
        found: list[tuple[Checkpoint, dict[str, float]]] = []
        for attempt in range(config.restarts + 1):
            best = self._train(derive("graphmask", self.seed, attempt))
            self.figures |= {
                "restarts": attempt,
                "divergence": best.verdict.divergence,
                "changed": best.verdict.changed,
                "retained": best.retained,
                "nearly_all": float(best.fullest > NEARLY_ALL),
            }
            if best.verdict.feasible and best.retained <= config.max_retained:
                self.probe.load_state_dict(best.state)
                return
            found.append((best, self.figures))
        nearest, self.figures = min(found, key=lambda attempt: attempt[0].rank())
        raise Infeasible(self._why(nearest))

    def _why(self, nearest: Checkpoint) -> str:
        """Return why no attempt served, and what can be done."""
        config, attempts = self.config, self.config.restarts + 1
        got = f"D* {nearest.verdict.divergence:.3g}, {nearest.verdict.changed:.1%} of predictions changed"
        if nearest.verdict.feasible:
            return (
                f"no probe in {attempts} attempts retains at most {config.max_retained:g} (max_retained); "
                f"the best retains {nearest.retained:.1%} ({got}): the model may need all messages, which "
                "max_retained=1 lets it say, or steps, learning rates or the margin keep the probe from less"
            )
        allowed = f"mean D* within tolerance={config.tolerance:g}"
        if config.max_changed < 1:
            allowed += f" and at most {config.max_changed:.1%} of predictions changed (max_changed)"
        if nearest.verdict.alone is not None:
            got += f" on {SAMPLES[nearest.verdict.alone]} graphs alone, which the others are unlike"
        return (
            f"no probe in {attempts} attempts keeps {allowed}, with {config.margin:g} standard errors (margin); the "
            f"nearest has {got} and retains {nearest.retained:.1%}: allow more, or give more graphs to judge on"
        )

    def _train(self, seed: int) -> Checkpoint:
        """Run one attempt and return its sparsest feasible checkpoint.

        Gates start open, so that there is a feasible checkpoint from the start; training goes back to the best one when
        it has been infeasible for a while and does not come back by itself. Steps that were in vain are made again, up
        to half as many as are planned; it ends where they would be in vain once more.
        """
        config, num_layers = self.config, self.subject.num_layers
        noise = generator("gates", seed)
        steps = _Steps(config.steps_per_layer * (num_layers - 1) + config.steps)
        restored, at_rest = 0, True
        fitted, held_out = self._split()
        with self.gates() as gates:
            streams = [gates.stream(graphs, self.subject.max_edges) for graphs in held_out]
            seen = (recording for stream in streams for _, recording in stream.recordings())
            self.probe = Probe(seen, config.hidden, config.location_bias, config.location_bound, seed)
            update = self._update(steps.planned)
            recordings = iter(self.track(self._recordings(gates, fitted, seed), "training", total=steps.planned))
            for lowest in update.stages(num_layers):
                progress = _Progress(self._check(self.probe, streams, lowest), config.stop_after, config.patience)
                multipliers = deque([update.log_multiplier()], LATELY + 1)
                stage = steps.planned // num_layers if lowest else steps.left
                steps.left -= stage
                started = best_at = steps.made
                restored_to: Checkpoint | None = None
                while stage:
                    self._step(update, next(recordings), lowest, noise)
                    stage, steps.made = stage - 1, steps.made + 1
                    if (steps.made - started) % config.check_every and stage:
                        continue
                    now = self._check(update.judged(), streams, lowest)
                    multipliers.append(update.log_multiplier())
                    update.heed(now.verdict.strain)
                    progress.add(now)
                    if progress.best is now:
                        best_at = steps.made
                    if progress.settled:
                        steps.left += stage
                        break
                    if progress.lost and update.spent and progress.best is restored_to:
                        steps.left += stage  # it would go the same way again
                        break
                    if progress.lost:
                        restored_to = progress.restore()
                        self.probe.load_state_dict(restored_to.state)
                        update.restart()
                        stage += steps.more(steps.made - best_at)
                        best_at, restored = steps.made, restored + 1
                at_rest &= progress.at_rest
                self.probe.load_state_dict(progress.best.state)
        multiplier, retained = fmean(multipliers), progress.best.retained
        at_rest &= retained < 1 - LEAST_GAIN and update.balanced(multiplier, retained)
        self.figures = {
            "restored": restored,
            "steps": steps.made,
            "unsettled": float(not at_rest),
            "late_fall": progress.late_fall,
            "late_infeasible": progress.late_infeasible,
            "log_multiplier": multiplier,
            "late_multiplier": max(multipliers) - min(multipliers),
        }
        return progress.best

    def _split(self) -> tuple[GraphBatch, list[GraphBatch]]:
        """Return the graphs to train on, and those on which the constraint is judged: validation, and held-out ones."""
        train, validation = self.subject.train, self.subject.validation
        count = train.num_graphs
        blocks, share = min(BLOCKS, count), min(self.config.held_out, MOST_HELD_OUT / count)
        block = torch.arange(count, device=train.device) * blocks // count
        aside = ((block + 1).double() * share).floor() > (block.double() * share).floor()
        if not bool(aside.any()):
            return train, [validation]
        return train.select((~aside).nonzero()[:, 0]), [validation, train.select(aside.nonzero()[:, 0])]

    def _update(self, steps: int) -> Update:
        config = self.config
        rates = Rates(config.learning_rate, config.baseline_learning_rate, steps)
        if config.update == "controlled":
            return Controlled(self.probe, config.tolerance, rates)
        return Lagrangian(self.probe, config.tolerance, rates, relu=config.update == "released")

    def _recordings(self, gates: Gates, graphs: GraphBatch, seed: int) -> Iterator[Recording]:
        """Yield what is recorded of minibatches of graphs, in a new order in every epoch, once for every step."""
        shuffle = generator("batches", seed)
        epochs = (graphs.minibatches(self.config.batch_size, shuffle) for _ in count())
        for _, batch in chain.from_iterable(epochs):
            yield from repeat(gates.record(batch), self.config.steps_per_batch)

    def _step(self, update: Update, recording: Recording, lowest: int, noise: torch.Generator) -> None:
        """Make one step with the mean sparsity per gated message and D*."""
        graphs, output, baselines = recording.graphs, self.subject.output, self.probe.baselines()
        locations = self.probe(recording, lowest)
        # Fitting sees batches that it draws itself: their noise need not be that of a graph in any batch.
        uniform = torch.rand(locations.shape, generator=noise, dtype=locations.dtype).clamp(1e-6, 1 - 1e-6)
        uniform = uniform.to(locations.device)

        def divergence(z: Tensor) -> Tensor:
            logits = recording.forward([*[None] * lowest, *z], baselines)
            return output.divergence(recording.logits, logits, graphs)

        def calm(noise: float) -> Tensor:
            z = self.distribution.sample(locations.detach(), uniform, noise) > 0.5
            return divergence(z.to(locations.dtype))

        # the mean over graphs of their means
        share = graphs.num_edges_per_graph.to(locations.dtype).reciprocal()[graphs.edge_graph] / graphs.num_graphs
        penalty = update.sparsity(self.distribution, locations).mean(0) @ share
        update.step(penalty, divergence(update.gates(self.distribution, locations, uniform)), calm)

    @torch.no_grad()
    def _check(self, probe: Probe, streams: list[Stream], lowest: int) -> Checkpoint:
        """Judge a probe as it will be used, with the hard mask; layers below ``lowest`` are open."""
        output = self.subject.output
        samples, counts = list[Sample](), list[tuple[int, int]]()
        for stream in streams:
            logits, kept, messages = [], 0, 0
            for _, recording in stream.recordings():
                mask = self.distribution.median(probe(recording, lowest)) > 0.5
                closing = [*[None] * lowest, *mask.to(recording.logits.dtype)]
                logits.append(recording.forward(closing, probe.baselines()))
                kept, messages = kept + int(mask.sum()), messages + mask.shape[1]
            counts.append((kept, messages))
            now = torch.cat(logits)
            divergence = output.divergence(stream.logits, now, stream.graphs)
            samples.append((divergence, *output.changes(stream.logits, now, stream.graphs)))
        counts.insert(0, (sum(kept for kept, _ in counts), sum(messages for _, messages in counts)))
        shares = [(lowest + kept / max(1, messages)) / self.subject.num_layers for kept, messages in counts]
        return Checkpoint(deepcopy(probe.state_dict()), self.constraint.judge(*samples), shares[0], max(shares))

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
