"""The model's own gates as explanation: the heuristic that Section 6 of the GraphMask paper argues against.

Models in the manner of Marcheggiani & Titov 2017 multiply every message by a scalar sigmoid gate. The message counts as
retained where its gate is not more than one standard deviation below the mean over the validation graphs.
"""

from __future__ import annotations

import torch

from attribench.model.graphs import GraphBatch
from attribench.plugins.method import Attribution, Method, Subject
from attribench.plugins.registry import METHODS


@METHODS.register
class GateValues(Method):
    """Gate values: the model's own gates, open above mean minus one standard deviation (Section 6)."""

    name = "gate-values"
    decides = True
    needs_gradients = False

    @classmethod
    def supports(cls, subject: Subject) -> str | None:
        """Only models with gates of their own can be explained."""
        return None if subject.model.gate_modules() else "the model has no gates of its own on its messages"

    def fit(self) -> None:
        """Take mean and standard deviation over all messages of the validation graphs."""
        values = self._values(self.subject.validation)
        std = float(values.std(correction=0))
        self.threshold = float(values.mean()) - std
        self.figures = {"gate_mean": float(values.mean()), "gate_std": std}

    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Read the gates off one unmasked pass."""
        values = self._values(graphs)
        return Attribution(values, hard_mask=values >= self.threshold)

    def _values(self, graphs: GraphBatch) -> torch.Tensor:
        with self.gates() as gates:
            values = gates.record(graphs).own_gates
        if values is None:
            raise RuntimeError("expected the model's gate modules to be called; none was")
        return values.detach()
