"""Integrated gradients over the gates: Sundararajan et al., ICML 2017; Appendix F of the GraphMask paper.

Gate z of every message runs from 0 to 1 on a straight line; an edge's attribution is the integral of the gradient of
the target with respect to its gate. Captum's ``IntegratedGradients`` computes it, for all graphs of a batch at once:
graphs do not interact, so the gradient of the summed targets holds each graph's own. Completeness is checked per graph,
because Captum's delta on a batch subtracts each graph's change from the total.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch_geometric.explain import CaptumExplainer, Explainer, ModelConfig

from attribench.base.errors import UserError
from attribench.model.graphs import GraphBatch
from attribench.model.model import AsPyG
from attribench.plugins.method import Attribution, Method, Subject, config
from attribench.plugins.registry import METHODS
from attribench.plugins.rival import Rival


@config
class IntegratedGradientsConfig:
    """Options; steps and quadrature are Captum's defaults."""

    steps: int = Field(50, ge=1, description="points of the quadrature")
    quadrature: Literal["gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left", "riemann_right"] = (
        Field("gausslegendre", description="how the integral is approximated")
    )
    target: Literal["logit", "probability"] = Field("logit", description="which output of the predicted class")

    def __post_init__(self) -> None:
        if self.steps < 2 and self.quadrature.startswith("riemann"):
            raise UserError(
                f"expected steps of at least 2 for {self.quadrature}, whose step size is that between points; got "
                f"{self.steps}: use more, or gausslegendre"
            )


def explain_with_pyg(subject: Subject, graphs: GraphBatch, options: Any) -> Tensor | None:
    """Explain with PyG's CaptumExplainer, called once on the whole batch."""
    algorithm = CaptumExplainer("IntegratedGradients", n_steps=options.steps, method=options.quadrature)
    explainer = Explainer(
        AsPyG(subject.model, graphs), algorithm, explanation_type="model", edge_mask_type="object",
        model_config=ModelConfig("multiclass_classification", "graph", "raw"),
    )  # fmt: skip
    mask: Tensor | None = explainer(graphs["x"], graphs.edge_index).edge_mask
    return mask


@METHODS.register
class IntegratedGradients(Method):
    """Integrated gradients along gates from 0 to 1, by Captum (Sundararajan et al. 2017)."""

    name = "integrated-gradients"
    Config = IntegratedGradientsConfig
    quick = {"steps": 8}
    steps_option = ("steps", "attribute")
    rivals = (Rival("PyG CaptumExplainer, one call on the batch", explain_with_pyg, reads=("x",), needs_messages=True),)
    config: IntegratedGradientsConfig

    @classmethod
    def supports(cls, subject: Subject) -> str | None:
        """Say no where Captum cannot be imported; that takes a second, which is no part of what the method costs."""
        try:
            import_module("captum.attr")
        except ImportError as error:
            return f"Captum cannot be imported: {error}"
        return None

    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Integrate for all graphs of the batch; reports the absolute completeness error per graph."""
        output, settings = self.subject.output, self.config
        with self.gates() as gates:
            recording = gates.record(graphs)
            explained = output.explained(recording.logits, graphs)
            progress = iter(self.track(range(settings.steps), "integrating", total=settings.steps))

            def target(z: Tensor) -> Tensor:
                return output.target(explained, recording.forward(z), graphs, settings.target)

            def summed_target(z: Tensor) -> Tensor:  # (1, L, E) -> (1,)
                next(progress, None)
                return target(z[0]).sum(0, keepdim=True)

            ones = recording.ones()[None]
            scores: Tensor = (
                import_module("captum.attr")
                .IntegratedGradients(summed_target)
                .attribute(
                    ones,
                    torch.zeros_like(ones),
                    n_steps=settings.steps,
                    method=settings.quadrature,
                    internal_batch_size=1,
                )[0]
                .detach()
            )
            with torch.no_grad():
                change = target(ones[0]) - target(torch.zeros_like(ones[0]))
        error = (graphs.sum_per_graph(scores.sum(0)) - change).abs()
        return Attribution(scores.to(ones.dtype), scale="relative", diagnostics={"completeness_error": error})
