"""Readout information bottleneck, one gate per message: Schulz et al., ICLR 2020; Appendix G of the GraphMask paper.

A readout network on [h_u, h_v, m] of the unmasked pass (no look-ahead) predicts a gate z in (0, 1) for every message,
which is replaced by z * m + (1 - z) * e with e ~ N(mu, sigma^2), mean and deviation per layer and dimension over all
training messages. Where messages go by matrices of adjacency the same is done without a vector for every edge: what a
node sends in a relation is one message, and the draws that reach a node are one draw. Trained to keep the model's
prediction while passing little information,

    min  -log p(y | noisy messages) + weight * mean KL[ N(z m + (1 - z) mu, (1 - z)^2 sigma^2) || N(mu, sigma^2) ].

The weight that closes all but what is used in one model closes everything in a deeper one. So it is the largest of a
few with which the model's predictions survive, on validation graphs, as GraphMask's constraint asks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from copy import deepcopy
from functools import cache, reduce
from itertools import chain, count, islice
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attribench.base.seeds import derive, generator
from attribench.model.adjacency_driver import AdjacencyCall, AdjacencyDriver
from attribench.model.baseline import Baseline
from attribench.model.call import Call
from attribench.model.driver_list import layers_without_messages
from attribench.model.graphs import GraphBatch
from attribench.model.recording import Recording, Stream
from attribench.plugins.method import Attribution, Method, Subject, config
from attribench.plugins.registry import METHODS

from ._constraint import MAX_CHANGED, TOLERANCE, Constraint, Verdict
from ._gate_networks import EdgeNetwork, EntryNetwork, message_moments, of_entries
from ._moments import pooled
from ._repeated import Repeated, kept_bytes
from ._settling import at_rest

WEIGHTS = (10.0, 3.0, 1.0, 0.3, 0.1)
"""What the weight is chosen from, where none is given: Schulz et al.'s, and ever smaller ones."""

GRAPHS_AT_ONCE = 500
"""Graphs of one pass of ``attribute``; the inputs of a larger batch outgrow the processor's caches."""


@config
class BottleneckConfig:
    """Options. The gates' start is Schulz et al.'s; so is the largest weight that is tried."""

    steps: int = Field(1500, ge=1, description="training steps")
    batch_size: int = Field(32, ge=1, description="graphs per step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam")
    weight: float | None = Field(
        None,
        ge=0,
        description="weight of the mean KL, nats per message and dimension; none: the largest of "
        f"{', '.join(f'{weight:g}' for weight in WEIGHTS)} that keeps D* within `tolerance` and changes at most "
        "`max_changed` of predictions on validation graphs",
    )
    gate_start: float = Field(5.0, description="bias of the gates' logits: they start open")
    baseline: Literal["gaussian", "mean", "zero"] = Field(
        "gaussian", description="what is mixed in: draws, the layer's mean message, or nothing"
    )
    smallest_std: float = Field(0.01, gt=0, description="floor of sigma, for dimensions that are always the same")
    hidden: int = Field(0, ge=0, description="width of the readout network; 0 takes the width of the message")
    released_variant: bool = Field(
        False,
        description="as the paper's released code: mean D* within `tolerance` by a multiplier in place of the weight, "
        "the variance taken for the deviation, the noise mixed in twice",
    )
    tolerance: float = Field(TOLERANCE, ge=0, description="nats of D*, as graphmask's; beta of the released variant")
    max_changed: float = Field(MAX_CHANGED, ge=0, le=1, description="as graphmask's")


class Readout(nn.Module, ABC):
    """Gate logits of one layer, with the statistics of its messages.

    Args:
        start: what the logits start at.
        mean, std: ``(D,)``, mu and sigma.
    """

    def __init__(self, start: float, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.start = start
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    mean: Tensor
    std: Tensor

    @abstractmethod
    def forward(self, call: Call) -> Tensor:
        """Return gate logits ``(E,)``."""

    @abstractmethod
    def surprise(self, call: Call) -> Tensor:
        """Return the mean over dimensions of ((m - mu) / sigma)^2 of every message, ``(E,)``."""

    @abstractmethod
    def noise(self, call: Call, draws: torch.Generator) -> Baseline:
        """Return draws from N(mu, sigma^2) in place of the messages."""


class MessageReadout(Readout):
    """Of messages in a list, by the network of Eq. 7."""

    def __init__(self, call: Call, hidden: int, start: float, mean: Tensor, std: Tensor) -> None:
        super().__init__(start, mean, std)
        self.network = EdgeNetwork(call.inputs_width, hidden)

    def forward(self, call: Call) -> Tensor:
        """Return gate logits ``(E,)``."""
        return self.network.read(call) + self.start

    def surprise(self, call: Call) -> Tensor:
        """Return the mean over dimensions of ((m - mu) / sigma)^2 of every message, ``(E,)``."""
        return squared_scores(call.flat_messages(), self.mean, self.std)

    def noise(self, call: Call, draws: torch.Generator) -> Baseline:
        """Return draws ``(E, D)``."""
        messages = call.flat_messages()
        normal = torch.randn(messages.shape, generator=draws, device=messages.device, dtype=messages.dtype)
        return Baseline.per_edge(self.mean + self.std * normal)


class EntryReadout(Readout):
    """Of messages that go by matrices of adjacency, by the network of Eq. 9."""

    def __init__(self, call: AdjacencyCall, hidden: int, start: float, mean: Tensor, std: Tensor) -> None:
        super().__init__(start, mean, std)
        self.network = EntryNetwork(call.inputs_width // 2, hidden, call.num_relations)

    def forward(self, call: Call) -> Tensor:
        """Return gate logits ``(E,)``."""
        entries = of_entries(call)
        return self.network.read(entries, entries.h_source.flatten(1)) + self.start

    def surprise(self, call: Call) -> Tensor:
        """Return the mean over dimensions of ((m - mu) / sigma)^2 of every message, ``(E,)``."""
        entries = of_entries(call)
        return squared_scores(entries.sends(), self.mean, self.std)[entries.sender]

    def noise(self, call: Call, draws: torch.Generator) -> Baseline:
        """Return draws ``(N, D)``, of which the layer makes what reaches each node."""
        shape, like = (len(call.h_source), call.width), self.mean
        normal = torch.randn(shape, generator=draws, device=like.device, dtype=like.dtype)
        return Baseline.drawn(self.mean, self.std * normal)


def squared_scores(messages: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the mean over dimensions of ((m - mu) / sigma)^2 of messages ``(M, D)``, ``(M,)``."""
    return ((messages - mean) / std).square().mean(1)


def bottleneck_kl(logits: Tensor, squared: Tensor) -> Tensor:
    """Return KL[N(z m + (1 - z) mu, (1 - z)^2 sigma^2) || N(mu, sigma^2)] per message, mean over dimensions, ``(E,)``.

    With s = (m - mu) / sigma it is -log(1 - z) + ((1 - z)^2 + z^2 s^2 - 1) / 2 (Schulz et al. 2020, Eq. 6).

    Args:
        logits: ``(E,)``, of z.
        squared: ``(E,)``, the mean of s^2, see :func:`squared_scores`.
    """
    z, log_closed = logits.sigmoid(), F.logsigmoid(-logits)
    return -log_closed + ((1 - z).square() + z.square() * squared - 1) / 2


@METHODS.register
class InformationBottleneck(Method):
    """Information bottleneck: learned gates that mix noise into messages (Schulz et al. 2020).

    Score: the gate z, which needs no draw. Own baseline: the layer's mean message, or zero where that was mixed in.
    """

    name = "information-bottleneck"
    Config = BottleneckConfig
    quick = {"steps": 30}
    steps_option = ("steps", "fit")
    fewest_to_fit = 50
    config: BottleneckConfig

    @classmethod
    def supports(cls, subject: Subject) -> str | None:
        """Say no where a layer sends no message as a vector, and is none of matrices of adjacency either."""
        bare = layers_without_messages(subject.model, AdjacencyDriver)
        return f"{', '.join(bare)} sends no message as a vector, which the method reads" if bare else None

    def fit(self) -> None:
        """Take the messages' statistics and train the readout networks, with some weights until the right one is found.

        That is the largest that serves, found by bisection: what a weight keeps, a smaller one keeps, too.
        """
        settings = self.config
        seed = derive("information-bottleneck", self.seed)
        given = settings.released_variant or settings.weight is not None
        constraint = Constraint(settings.tolerance, settings.max_changed)
        with self.gates() as gates:
            train = gates.stream(self.subject.train, self.subject.max_edges)
            validation = gates.stream(self.subject.validation, self.subject.max_edges)
            start = self._build(train, seed)
            # Each weight sees the same batches.
            recordings = Repeated(
                gates, lambda: self._batches(seed), 0 if given else kept_bytes(self.subject.max_edges)
            )

            @cache
            def trained(weight: float) -> tuple[list[Readout], Tensor, Verdict]:
                self.readouts = deepcopy(start)
                objective = self._train(recordings, weight, seed)
                return self.readouts, objective, self._judge(constraint, validation)

            if given:
                weight = settings.weight or 0.0
            else:
                weight = WEIGHTS[bisect_left(WEIGHTS[:-1], True, key=lambda weight: trained(weight)[2].feasible)]
            self.readouts, objective, verdict = trained(weight)
        served = given or verdict.feasible
        if settings.released_variant:
            served = verdict.divergence <= settings.tolerance
        self.figures = {
            "divergence": verdict.divergence,
            "changed": verdict.changed,
            "unsettled": float(not (at_rest(objective) and served)),
        }
        if not given:
            self.figures["weight"] = weight

    def _batches(self, seed: int) -> Iterator[GraphBatch]:
        """Yield minibatches of training graphs, one for every step."""
        shuffle = generator("batches", seed)
        epochs = (self.subject.train.minibatches(self.config.batch_size, shuffle) for _ in count())
        for _, batch in islice(chain.from_iterable(epochs), self.config.steps):
            yield batch

    def _train(self, recordings: Iterable[Recording], weight: float, seed: int) -> Tensor:
        """Train the readout networks from where they are; return the objective of every step."""
        settings = self.config
        draws = generator("noise", seed, device=self.subject.train.device)
        parameters = list(chain.from_iterable(readout.parameters() for readout in self.readouts))
        optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
        raw = torch.zeros((), device=draws.device, dtype=parameters[0].dtype, requires_grad=True)
        raw_optimizer = torch.optim.RMSprop([raw], lr=1e-2, centered=True, maximize=True)
        course = list[Tensor]()
        for recording in self.track(recordings, "training the readout", total=settings.steps):
            kept, information = self._objective(recording, draws)
            optimizer.zero_grad()
            if settings.released_variant:
                raw_optimizer.zero_grad()
                (information + F.softplus(raw) * kept).backward()
                raw_optimizer.step()
                course.append(information.detach())  # the multiplier changes what it is weighed against
            else:
                objective = kept + weight * information
                objective.backward()
                course.append(objective.detach())
            optimizer.step()
        return torch.stack(course)

    @torch.no_grad()
    def _judge(self, constraint: Constraint, validation: Stream) -> Verdict:
        """Judge the gates on validation graphs as they are scored: with the own baseline in place of draws."""
        recordings = (recording for _, recording in validation.recordings())
        masked = torch.cat([recording.forward(self._gates_of(recording), self._own()) for recording in recordings])
        divergence = self.subject.output.divergence(validation.logits, masked, validation.graphs)
        return constraint.judge(
            (divergence, *self.subject.output.changes(validation.logits, masked, validation.graphs))
        )

    def _build(self, train: Stream, seed: int) -> list[Readout]:
        """Build a readout per layer, with mean and deviation over all messages of the training graphs."""
        readouts = list[Readout]()
        by_part = [[message_moments(call) for call in recording.calls] for _, recording in train.recordings()]
        calls = next(train.recordings())[1].calls
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for call, parts in zip(calls, zip(*by_part, strict=True), strict=True):
                _, std, mean = reduce(pooled, parts)
                spread = std.square() if self.config.released_variant else std
                hidden, start = self.config.hidden or call.width, self.config.gate_start
                floored = spread.clamp(min=self.config.smallest_std)
                readout: Readout
                if isinstance(call, AdjacencyCall):
                    readout = EntryReadout(call, hidden, start, mean, floored)
                else:
                    readout = MessageReadout(call, hidden, start, mean, floored)
                readouts.append(readout.to(train.logits))
        return readouts

    def _objective(self, recording: Recording, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the prediction (or excess of D*) and the mean KL, each graph counting the same."""
        graphs, output = recording.graphs, self.subject.output
        gates, baselines, information = [], [], []
        for readout, call in zip(self.readouts, recording.calls, strict=True):
            logits = readout(call)
            z = logits.sigmoid()
            # Mixing twice gives z (z m + (1 - z) e) + (1 - z) e = z^2 m + (1 - z^2) e.
            gates.append(z.square() if self.config.released_variant else z)
            baselines.append(self._baseline(readout, call, draws))
            information.append(bottleneck_kl(logits, readout.surprise(call)))
        masked = recording.forward(gates, baselines)
        kl = graphs.sum_per_graph(torch.stack(information).mean(0)) / graphs.num_edges_per_graph
        if self.config.released_variant:
            excess = output.divergence(recording.logits, masked, graphs) - self.config.tolerance
            return excess.relu().mean(), kl.mean()
        explained = output.explained(recording.logits, graphs)
        return output.loss(explained, masked, graphs).mean(), kl.mean()

    def _baseline(self, readout: Readout, call: Call, draws: torch.Generator) -> Baseline:
        """Return what is mixed into each message in training."""
        if self.config.baseline == "gaussian":
            return readout.noise(call, draws)
        return Baseline.shared(readout.mean if self.config.baseline == "mean" else torch.zeros_like(readout.mean))

    @torch.no_grad()
    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Predict all gates of a batch from one unmasked pass."""
        with self.gates() as gates:
            parts = [self._gates_of(gates.record(part)) for _, part in graphs.minibatches(GRAPHS_AT_ONCE)]
        return Attribution(torch.cat(parts, dim=1), baselines=tuple(self._own()))

    def _own(self) -> list[Tensor]:
        """Return what stands for the noise where no draw is wanted, ``(D,)`` per layer."""
        means = [readout.mean for readout in self.readouts]
        return [torch.zeros_like(mean) if self.config.baseline == "zero" else mean.clone() for mean in means]

    def _gates_of(self, recording: Recording) -> Tensor:
        """Return the gates ``(L, E)`` of a recorded batch."""
        pairs = zip(self.readouts, recording.calls, strict=True)
        return torch.stack([readout(call).sigmoid() for readout, call in pairs])
