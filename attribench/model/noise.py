"""Counter-based noise: a hash of (seed, graph, layer, edge, step), so that it does not depend on the batch.

The counters, each times an odd constant of its own, are summed and mixed by the finaliser of SplitMix64 (Steele, Lea &
Flood 2014), on int64 tensors that wrap around.
"""

import math

import torch
from torch import Tensor

from .graphs import GraphBatch


def _signed(value: int) -> int:
    """Return a 64-bit word as the signed integer that torch stores."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


# Fractional parts of the golden ratio and of the square roots of 2, 3, 5 and 7, made odd.
_SEED, _GRAPH, _LAYER, _EDGE, _STEP = (
    _signed(x)
    for x in (0x9E3779B97F4A7C15, 0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1)
)
_MIX_1, _MIX_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros (torch's own shift keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Return the finaliser of SplitMix64 of int64 words."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


class EdgeNoise:
    """Noise for every layer and edge of a batch, the same for a graph whatever else is in the batch.

    Args:
        graphs: the batch.
        num_layers: L.
        seed: seed of the stream.
    """

    def __init__(self, graphs: GraphBatch, num_layers: int, seed: int) -> None:
        layers = torch.arange(num_layers, device=graphs.device)[:, None] * _LAYER + _signed(seed * _SEED)
        self._state = layers + (graphs.graph_key * _GRAPH)[graphs.edge_graph] + graphs.edge_key * _EDGE  # (L, E)

    def rank(self, step: int = 0) -> Tensor:
        """Return int64 hashes ``(L, E)``: their order within a graph is a random order of its edges."""
        return mix(self._state + _signed(step * _STEP))

    def uniform(self, step: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return draws ``(L, E)`` from U(0, 1), never 0 or 1."""
        draws = (_shift(self.rank(step), 12).double() + 0.5) * 2.0**-52
        return draws.to(dtype).clamp(torch.finfo(dtype).tiny, 1 - torch.finfo(dtype).eps / 2)

    def normal(self, step: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return draws ``(L, E)`` from N(0, 1), by inversion."""
        return (torch.erfinv(2 * self.uniform(step, torch.float64) - 1) * math.sqrt(2)).to(dtype)
