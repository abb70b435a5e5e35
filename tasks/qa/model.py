"""The answerer of De Cao, Aziz & Titov (NAACL 2019), with word vectors that are fixed (their GloVe variant).

A BiLSTM of two layers reads the query. A mention's first state is made of its name and the query; then one R-GCN layer
is applied three times, with the same parameters. In every call mention i receives

    u_i = W h_i + b + sum over r of sum over j in N_r(i) of c_ij (W_r h_j + b_r),

with c = 1 / |N_r(i)|, or 1 / |N(i)| over all relations together, as published, and takes of it what a gate lets in:
h_i' = a_i tanh(u_i) + (1 - a_i) h_i with a_i = sigmoid(f(u_i, h_i)). A candidate's logit is the largest of its
mentions' scores, of the query and the mention's state.

There are two forms with the same parameters and the same outputs: one matrix of adjacency per relation (Eq. 8 of the
GraphMask paper), and a list of edges with a message each. What normalises, c, comes after the gates in both, so that a
baseline is scaled by it as a message is (Eq. 10).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch_geometric.nn import MessagePassing

from attribench.model.adjacency import AdjacencyLayer, Padding
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel

CALLS = 3
"""How often the layer is applied: three edges are the longest chain of the bundled items, and the paper's depth."""

QUERY_LAYERS = 2
"""Of the BiLSTM."""

Form = Literal["dense", "list"]
Normalisation = Literal["relation", "all"]


def shares(graphs: GraphBatch, num_relations: int, normalisation: Normalisation) -> Tensor:
    """Return c ``(E,)``: one over the number of edges that reach an edge's target, of its relation or of all."""
    relation, target = graphs["edge_type"], graphs.edge_index[1]
    place = target * num_relations + relation if normalisation == "relation" else target
    counts = place.bincount(minlength=1)
    shares: Tensor = counts[place].to(graphs["x"].dtype).reciprocal()
    return shares


class Messages(nn.Module):
    """W_r and b_r of every relation.

    Args:
        width: D.
        num_relations: R.
    """

    def __init__(self, width: int, num_relations: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_relations, width, width))
        self.bias = nn.Parameter(torch.zeros(num_relations, width))
        nn.init.uniform_(self.weight, -((3 / width) ** 0.5), (3 / width) ** 0.5)  # Glorot

    def forward(self, h: Tensor) -> Tensor:
        """Return what every node would send in each relation, ``(..., R, D)`` of states ``(..., D)``."""
        num_relations, width, _ = self.weight.shape
        sent = h @ self.weight.transpose(0, 1).reshape(width, -1)
        return sent.view(*h.shape[:-1], num_relations, width) + self.bias


class Transformed(NamedTuple):
    """What the layer makes of the states before any message is passed.

    Args:
        own: what each mention says to itself, of the states' shape.
        sent: what it would send in each relation, ``(G, R, V, D)`` in the dense form, ``(N, R, D)`` in the other.
    """

    own: Tensor
    sent: Tensor


class DenseConv(AdjacencyLayer):
    """The sum of what reaches a node, by matrices of adjacency whose entries are c."""

    def __init__(self, width: int, num_relations: int) -> None:
        super().__init__("edge_type")
        self.messages = Messages(width, num_relations)

    def send(self, h: Tensor) -> Tensor:
        """Return what is sent ``(G, R, V, D)`` by nodes of states ``(G, V, D)``."""
        sent: Tensor = self.messages(h).transpose(1, 2)
        return sent.contiguous()

    def forward(self, h: Tensor, adjacency: Tensor, sent: Tensor) -> Tensor:
        """Return ``(G, V, D)`` of states, by matrices ``(G, R, V, V)``, and what is sent."""
        received: Tensor = self.aggregate(adjacency, sent)
        return received


class ListConv(MessagePassing):
    """The same by a message for every edge; c is multiplied where messages are summed, after the gates."""

    def __init__(self, width: int, num_relations: int) -> None:
        super().__init__(aggr="sum")
        self.messages = Messages(width, num_relations)

    def send(self, h: Tensor) -> Tensor:
        """Return what is sent ``(N, R, D)`` by nodes of states ``(N, D)``."""
        sent: Tensor = self.messages(h)
        return sent

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor, share: Tensor, sent: Tensor) -> Tensor:
        """Return ``(N, D)`` of states, and what is sent."""
        sender = edge_index[0] * sent.shape[1] + edge_type
        received: Tensor = self.propagate(
            edge_index, size=(len(x), len(x)), sent=sent.flatten(0, 1), sender=sender, share=share
        )
        return received

    def message(self, sent: Tensor, sender: Tensor) -> Tensor:
        """Return messages ``(E, D)``."""
        return sent[sender]

    def aggregate(self, inputs: Tensor, index: Tensor, share: Tensor, dim_size: int) -> Tensor:
        """Return sums ``(N, D)``."""
        return inputs.new_zeros(dim_size, inputs.shape[1]).index_add(0, index, share[:, None] * inputs)


class Encoded(NamedTuple):
    """What comes before the first message.

    Args:
        query: ``(G, D)``.
        h: ``(N, D)``, the mentions' first states; padded ``(G, V, D)`` in the dense form.
        first: what the layer makes of them.
        edges: c, in matrices ``(G, R, V, V)`` in the dense form, ``(E,)`` in the other.
        slot: ``(N,)``, where mentions stand in the padded states; those themselves in the other form.
    """

    query: Tensor
    h: Tensor
    first: Transformed
    edges: Tensor
    slot: Tensor


class Answerer(GraphModel):
    """Logits ``(G, C)`` of the candidates, 0 where a graph has none.

    Reads ``x``, ``subject`` and ``candidate`` of the nodes, ``edge_type`` of the edges, ``query``, ``query_length`` and
    ``choices`` of the graphs.

    Args:
        inputs: width of word vectors.
        num_relations: R.
        width: D, of the states.
        dropout: share of the inputs of every part that is dropped in training.
        form: dense or list.
        normalisation: of c.
        connected: False for a model of the same size that hears of no neighbour.
        flag: whether it is told which mentions are of the query's subject, and need not find them by their names.
    """

    def __init__(
        self,
        inputs: int,
        num_relations: int,
        *,
        width: int,
        dropout: float,
        form: Form,
        normalisation: Normalisation,
        connected: bool = True,
        flag: bool = True,
    ) -> None:
        super().__init__()
        self.num_relations, self.form, self.normalisation = num_relations, form, normalisation
        self.connected, self.flag = connected, flag
        self.dropout = nn.Dropout(dropout)
        self.reader = nn.LSTM(inputs, width // 2, QUERY_LAYERS, bidirectional=True, batch_first=True, dropout=dropout)
        self.initial = nn.Sequential(nn.Linear(inputs + flag + width, width), nn.ReLU(), nn.Linear(width, width))
        self.layer: DenseConv | ListConv = (DenseConv if form == "dense" else ListConv)(width, num_relations)
        self.own = nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, width)
        self.readout = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def in_form(self, form: Form) -> Answerer:
        """Return a copy with the same parameters in one form or the other."""
        other, kind = deepcopy(self), DenseConv if form == "dense" else ListConv
        other.form, other.layer = form, kind(self.own.out_features, self.num_relations)
        other.layer.load_state_dict(self.layer.state_dict())
        return other.to(self.own.weight)

    def read(self, graphs: GraphBatch) -> Tensor:
        """Return the queries' states ``(G, D)``: the last ones of both directions of the upper layer."""
        words = self.dropout(graphs["query"])
        packed = pack_padded_sequence(words, graphs["query_length"].cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.reader(packed)
        return torch.cat([last[-2], last[-1]], dim=-1)

    def encode(self, graphs: GraphBatch) -> Encoded:
        """Read the query, and join it with the names."""
        query = self.read(graphs)
        named = [graphs["x"], graphs["subject"][:, None].to(query.dtype)] if self.flag else [graphs["x"]]
        h = self.initial(self.dropout(torch.cat([*named, query[graphs.batch]], dim=-1)))
        h = self.dropout(h)
        share = shares(graphs, self.num_relations, self.normalisation)
        if self.form == "list":
            return Encoded(query, h, self.transform(h), share, torch.arange(len(h), device=h.device))
        padding = Padding.of(graphs, graphs["edge_type"], self.num_relations)
        h = padding.pad(h)
        return Encoded(query, h, self.transform(h), padding.matrices(share), padding.slot)

    def transform(self, h: Tensor) -> Transformed:
        """Return what does not depend on which messages arrive."""
        return Transformed(self.own(h), self.layer.send(h))

    def decode(self, graphs: GraphBatch, state: Encoded) -> Tensor:
        """Pass the messages, score the mentions, and take the best of every candidate's."""
        *_, h = self.states(graphs, state)
        scores = self.readout(self.dropout(torch.cat([state.query[graphs.batch], self.nodes(state, h)], dim=-1)))[:, 0]
        choices, candidate = graphs["choices"], graphs["candidate"]
        named = candidate >= 0
        place = graphs.batch[named] * choices.shape[1] + candidate[named]
        logits: Tensor = scores.new_zeros(choices.numel())
        return logits.scatter_reduce(0, place, scores[named], "amax", include_self=False).view(choices.shape)

    def states(self, graphs: GraphBatch, state: Encoded) -> Iterator[Tensor]:
        """Yield the mentions' states after every call, in the form's shape."""
        h, made = state.h, state.first
        for k in range(CALLS):
            if k:
                h = self.dropout(h)
                made = self.transform(h)
            if isinstance(self.layer, DenseConv):
                received = self.layer(h, state.edges, made.sent)
            else:
                received = self.layer(h, graphs.edge_index, graphs["edge_type"], state.edges, made.sent)
            update = made.own + (received if self.connected else 0 * received)
            gate = self.gate(torch.cat([update, h], dim=-1)).sigmoid()
            h = gate * update.tanh() + (1 - gate) * h
            yield h

    @staticmethod
    def nodes(state: Encoded, h: Tensor) -> Tensor:
        """Return states ``(N, D)`` in the order of the mentions."""
        return h.flatten(0, -2)[state.slot]
