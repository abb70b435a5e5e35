"""The networks that predict a location for every gate: Eq. 4 and 7, one per layer, with the layer's baseline."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from attribench.base.seeds import derive
from attribench.model.call import Call
from attribench.model.recording import Recording


class _Within(torch.autograd.Function):
    """Clamp to [-bound, bound]; the gradient passes, unless a step along it leads further out."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.bound = bound
        return values.clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        outwards = (values >= ctx.bound) & (gradient < 0) | (values <= -ctx.bound) & (gradient > 0)
        return gradient.masked_fill(outwards, 0), None


def within(values: Tensor, bound: float) -> Tensor:
    """Return values clamped to [-bound, bound], with the gradient of the identity where it leads inwards."""
    result: Tensor = _Within.apply(values, bound)
    return result


class EdgeNetwork(nn.Module):
    """W2 ReLU(LN(W1 q)) of Eq. 7, one number for every edge.

    Args:
        inputs: width of q = [h_u, h_v, m].
        hidden: rows of W1.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def read(self, call: Call) -> Tensor:
        """Return ``(E,)``."""
        hidden = call.project(cast(nn.Linear, self.layers[0]))
        numbers: Tensor = self.layers[1:](hidden)[:, 0]
        return numbers


class GateNetwork(EdgeNetwork):
    """g of Eq. 4 for one layer: gamma of Eq. 7, and the layer's baseline b.

    Locations are bounded, so that no gate is far from where it changes, and each is drawn the other way at times.
    """

    def __init__(self, inputs: int, width: int, hidden: int, bias: float, bound: float) -> None:
        super().__init__(inputs, hidden)
        self.baseline = nn.Parameter(torch.zeros(width))
        self.bias = bias
        self.bound = bound

    def forward(self, call: Call) -> Tensor:
        """Return locations gamma + c ``(E,)``."""
        return within(self.read(call) + self.bias, self.bound)


class Probe(nn.Module):
    """One gate network per layer.

    Args:
        recording: the calls that the networks are to fit.
        hidden: width of the networks.
        bias: c of Appendix B.
        bound: of the locations, to both sides of 0.
        seed: what they are initialised from.
    """

    def __init__(self, recording: Recording, hidden: int, bias: float, bound: float, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("probe", seed))
            self.networks = [GateNetwork(c.inputs().shape[1], c.width, hidden, bias, bound) for c in recording.calls]
        self.layers = nn.ModuleList(self.networks)
        self.to(recording.logits)

    def forward(self, recording: Recording, lowest: int = 0) -> Tensor:
        """Return the locations ``(L - lowest, E)`` of the layers from ``lowest`` up."""
        calls = zip(self.networks[lowest:], recording.calls[lowest:], strict=True)
        return torch.stack([network(call) for network, call in calls])

    def baselines(self) -> list[Tensor]:
        """Return b(k) ``(D,)`` of every layer."""
        return [network.baseline for network in self.networks]

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of all gates, without the baselines."""
        return [parameter for network in self.networks for parameter in network.layers.parameters()]
