"""The hard concrete distribution (Louizos et al. 2018; Eq. 12 and Appendix B of the GraphMask paper).

Eq. 12 as printed stretches by s * (l - r) + r, which closes a gate as its location grows; here
z = clip(s * (r - l) + l).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HardConcrete:
    """A binary concrete variable on (0, 1), stretched to (low, high) and clipped to [0, 1].

    Args:
        temperature: tau; 1/3 in Appendix B.
        low: l <= 0.
        high: r >= 1. With r = 1 the probability of z = 1 is 0 before rounding.
    """

    temperature: float = 1 / 3
    low: float = -0.2
    high: float = 1.0

    def _stretch(self, logit: Tensor) -> Tensor:
        return (torch.sigmoid(logit / self.temperature) * (self.high - self.low) + self.low).clamp(0, 1)

    def sample(self, location: Tensor, uniform: Tensor, scale: float = 1.0) -> Tensor:
        """Return z in [0, 1] for locations gamma and draws u from U(0, 1) (Eq. 12), differentiable in gamma.

        Args:
            location: gamma, of any shape.
            uniform: u, of the same shape.
            scale: of the noise; 0 gives :meth:`median`.
        """
        return self._stretch(scale * (uniform.log() - (-uniform).log1p()) + location)

    def median(self, location: Tensor) -> Tensor:
        """Return z at u = 1/2: the deterministic gate."""
        return self._stretch(location)

    def probability_nonzero(self, location: Tensor) -> Tensor:
        """Return P(z != 0) = sigmoid(gamma - tau log(-l / r)), the summand of Eq. 11."""
        if self.low >= 0:
            return torch.ones_like(location)
        return torch.sigmoid(location - self.temperature * math.log(-self.low / self.high))

    def probability_one(self, location: Tensor) -> Tensor:
        """Return P(z = 1) = sigmoid(gamma - tau log((1 - l) / (r - 1))); 0 for r = 1."""
        if self.high <= 1:
            return torch.zeros_like(location)
        return torch.sigmoid(location - self.temperature * math.log((1 - self.low) / (self.high - 1)))

    def probability_open(self, location: Tensor) -> Tensor:
        """Return P(z > 1/2), that a rounded gate is open."""
        threshold = (0.5 - self.low) / (self.high - self.low)
        return torch.sigmoid(location - self.temperature * math.log(threshold / (1 - threshold)))


def straight_through_round(z: Tensor) -> Tensor:
    """Round z to 0 or 1 (open above 1/2) and pass the gradient through unchanged (Bengio et al. 2013)."""
    return z + ((z > 0.5).to(z.dtype) - z).detach()


def trapezoidal_gate(z: Tensor, location: Tensor, probability_open: Tensor, most: float) -> Tensor:
    """Return rounded gates whose gradient in their locations is that of an expectation, by the trapezoidal rule.

    Of a function f of gates, d/dgamma E[f] = p' E[f(z=1) - f(z=0)] with p' = dP(open)/dgamma. The difference is taken
    as the mean of df/dz at both ends, exact for quadratic f (as by Liu et al. 2023, "Bridging Discrete and
    Backpropagation"). A draw is at one end, and so counts 1 / (2 P(that end)). The factor p' is left out: nearly closed
    and nearly open gates, where it is almost 0, would never change. What is weighed against f has to be without it,
    too: of the expected number of open gates, whose gradient is p', remains gamma, whose gradient is 1.

    Args:
        z: gates in [0, 1], drawn at the locations.
        location: gamma.
        probability_open: P(z > 1/2) at the locations.
        most: bound of 1 / (2 P), against the variance of ends that are hardly ever drawn.
    """
    rounded = (z > 0.5).to(z.dtype)
    at_end = torch.where(z > 0.5, probability_open, 1 - probability_open).detach()
    weight = (0.5 / at_end).clamp(max=most)
    return rounded.detach() + weight * (location - location.detach())
