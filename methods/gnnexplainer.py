"""GNNExplainer's edge mask: Ying et al., NeurIPS 2019, with a mask per layer.

Per graph, minimise over mask logits M:  -log p(y | z * m) + a * sum z + b * mean H(z),  z = sigmoid(M), where y is the
model's own prediction (or the class that the task asks for) and H the entropy of a coin. Settings and details follow
PyG's ``GNNExplainer``: the first step has no regularisation, entries without a gradient in it are not regularised
afterwards and end at 0, and M starts from N(0, 2 / (2 N)) times the ReLU gain. All graphs of a batch are explained at
once: every term is summed over graphs.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.explain import Explainer, ModelConfig
from torch_geometric.explain import GNNExplainer as PyGGNNExplainer

from attribench.base.seeds import derive
from attribench.model.graphs import GraphBatch
from attribench.model.model import AsPyG
from attribench.model.noise import EdgeNoise
from attribench.plugins.method import Attribution, Method, Subject, config
from attribench.plugins.registry import METHODS
from attribench.plugins.rival import Rival

from ._settling import Course


@config
class GNNExplainerConfig:
    """Options; weights and learning rate are PyG's defaults, the number of steps is that of the paper's comparison."""

    steps: int = Field(2000, ge=1, description="Adam steps per graph (PyG: 100)")
    learning_rate: float = Field(0.01, gt=0, description="Adam (Ying et al.'s code: 0.1)")
    size_weight: float = Field(0.005, ge=0, description="weight of the sum of the mask")
    entropy_weight: float = Field(1.0, ge=0, description="weight of the mean entropy of the mask")
    share_layers: bool = Field(False, description="one mask for all layers, as published")


def explain_with_pyg(subject: Subject, graphs: GraphBatch, options: Any) -> Tensor | None:
    """Explain with PyG's own GNNExplainer, which is meant for one graph at a time."""
    algorithm = PyGGNNExplainer(epochs=options.steps, lr=options.learning_rate)
    explainer = Explainer(
        AsPyG(subject.model, graphs), algorithm, explanation_type="model", edge_mask_type="object",
        model_config=ModelConfig("multiclass_classification", "graph", "raw"),
    )  # fmt: skip
    mask: Tensor | None = explainer(graphs["x"], graphs.edge_index).edge_mask
    return mask


@METHODS.register
class GNNExplainer(Method):
    """GNNExplainer: a soft mask per graph, layer and edge, by gradient descent (Ying et al. 2019)."""

    name = "gnnexplainer"
    Config = GNNExplainerConfig
    quick = {"steps": 20}
    steps_option = ("steps", "attribute")
    rivals = (
        Rival("PyG GNNExplainer, one graph at a time", explain_with_pyg, sample=3, reads=("x",), needs_messages=True),
    )
    config: GNNExplainerConfig

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._course = Course()

    def attribute(self, graphs: GraphBatch) -> Attribution:
        """Optimise the masks of all graphs of the batch."""
        output, settings = self.subject.output, self.config
        with self.gates() as gates:
            recording = gates.record(graphs)
            num_layers = recording.num_layers
            explained = output.explained(recording.logits, graphs)
            mask = self.initial_mask(graphs, 1 if settings.share_layers else num_layers, recording.logits.dtype)
            mask.requires_grad_()
            optimizer = torch.optim.Adam([mask], lr=settings.learning_rate, fused=True)
            weights: tuple[Tensor, Tensor] | None = None
            active = torch.ones_like(mask, dtype=torch.bool)
            course = list[Tensor]()
            for _ in self.track(range(settings.steps), "optimising masks", total=settings.steps):
                z = mask.sigmoid()
                loss = output.loss(explained, recording.forward(z.expand(num_layers, -1)), graphs).sum()
                if weights is not None:
                    size, entropy = weights
                    # The coin's entropy in terms of its logit is finite where sigmoid rounds to 0 or 1.
                    loss = loss + (size * z + entropy * (F.softplus(mask) - mask * z)).sum()
                    course.append(loss.detach())
                optimizer.zero_grad()
                loss.backward()
                if weights is None:
                    assert mask.grad is not None
                    active = mask.grad != 0
                    weights = self._weights(graphs, active, mask.dtype)
                optimizer.step()
        self._course.add(course)
        self.figures["unsettled"] = float(self._course.unsettled)
        scores = (mask.detach().sigmoid() * active).expand(num_layers, -1)
        return Attribution(scores.contiguous(), per_layer=not settings.share_layers)

    def initial_mask(self, graphs: GraphBatch, rows: int, dtype: torch.dtype) -> Tensor:
        """Draw mask logits ``(rows, E)`` as PyG does: N(0, 2 / (2 N)) times the ReLU gain, for a graph of N nodes."""
        gain: float = torch.nn.init.calculate_gain("relu")
        std = gain * graphs.num_nodes_per_graph.to(dtype).rsqrt()[graphs.edge_graph]
        return EdgeNoise(graphs, rows, derive("gnnexplainer", self.seed)).normal(dtype=dtype) * std

    def _weights(self, graphs: GraphBatch, active: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the weights of each entry's size and entropy: a sum and a mean over the active entries per graph."""
        counts = graphs.sum_per_graph(active.to(dtype)).sum(0).clamp(min=1)[graphs.edge_graph]
        return self.config.size_weight * active, self.config.entropy_weight * active / counts
