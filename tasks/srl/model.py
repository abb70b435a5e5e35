"""The role labeller of Marcheggiani & Titov (EMNLP 2017): embeddings, maybe a BiLSTM, syntactic GCN layers, a scorer.

A message along or against a dependency arc from u to v is g (V_dir h_u + b_label), with V by direction, b by relation
and direction, and a scalar gate g = sigmoid(w_dir . h_u + c_label). What a token says to itself has a gate of the
model's, too, but is a term of the layer and no message: no method can close it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import to_dense_batch

from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel

DIRECTIONS = 2
"""Along the arc (from head to dependent) and against it."""

BLOCK = 16
"""Tokens that are scored together."""


class ArcGate(nn.Module):
    """sigmoid(w_dir . h_u + c_label), one scalar per message."""

    def __init__(self, width: int, num_types: int) -> None:
        super().__init__()
        self.weight = nn.Linear(width, DIRECTIONS, bias=False)
        self.bias = nn.Embedding(num_types, 1)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, sender: Tensor, edge_type: Tensor) -> Tensor:
        """Return gates ``(E, 1)``; ``sender`` is the place of (source, direction) among all pairs."""
        logits: Tensor = self.weight(x).view(-1, 1).index_select(0, sender) + self.bias(edge_type)
        return logits.sigmoid()


class Transformed(NamedTuple):
    """What a layer makes of its input before any message is passed.

    Args:
        own: ``(N, D)``, what each token says to itself.
        content: ``(E, D)``, messages before their gates.
        gate: ``(E, 1)``.
    """

    own: Tensor
    content: Tensor
    gate: Tensor


class SyntacticConv(MessagePassing):
    """One syntactic GCN layer: h_v' = ReLU(sigmoid(w . h_v + d) (W h_v + c) + sum of gated messages).

    Args:
        width: of the states before and after.
        num_types: number of relations times directions.
        connected: False for a layer of the same size that adds nothing of its neighbours.
    """

    def __init__(self, width: int, num_types: int, connected: bool = True) -> None:
        super().__init__(aggr="sum")
        self.own = nn.Linear(width, width)
        self.own_gate = nn.Linear(width, 1)
        self.weight = nn.Linear(width, DIRECTIONS * width, bias=False)
        self.bias = nn.Embedding(num_types, width)
        self.gate = ArcGate(width, num_types)
        self.connected = connected
        nn.init.zeros_(self.bias.weight)

    def transform(self, x: Tensor, graphs: GraphBatch) -> Transformed:
        """Return what does not depend on which messages arrive in this layer."""
        edge_type = graphs["edge_type"]
        sender = DIRECTIONS * graphs.edge_index[0] + graphs["direction"]
        content = self.weight(x).view(-1, x.shape[1]).index_select(0, sender) + self.bias(edge_type)
        return Transformed(self.own_gate(x).sigmoid() * self.own(x), content, self.gate(x, sender, edge_type))

    def forward(self, x: Tensor, edge_index: Tensor, transformed: Transformed) -> Tensor:
        """Return the new states ``(N, D)``."""
        received: Tensor = self.propagate(
            edge_index, size=(len(x), len(x)), content=transformed.content, gate=transformed.gate
        )
        out: Tensor = transformed.own + (received if self.connected else 0 * received)
        return out.relu()

    def message(self, content: Tensor, gate: Tensor) -> Tensor:
        """Return gated messages ``(E, D)``."""
        return gate * content


class Scoring(NamedTuple):
    """What the scorer knows before it sees a state. Tokens stand in blocks of one graph's each, so that one product of
    matrices per block scores them all, with little room for the short sentences of a batch to waste.

    Args:
        place: ``(N,)``, of each token among all places of all blocks.
        of_token: ``(B, D, R)``, weights of every block's tokens.
        of_predicate: ``(G, R, D)``, weights of the predicates.
    """

    place: Tensor
    of_token: Tensor
    of_predicate: Tensor


class RoleScorer(nn.Module):
    """Logits (h_i, h_p) . ReLU(U [q_lemma, q_role]) of every role for token i and predicate p.

    Args:
        width: of the states.
        num_lemmas, num_roles: sizes of the vocabularies.
        embedding: width of q.
    """

    def __init__(self, width: int, num_lemmas: int, num_roles: int, embedding: int = 64) -> None:
        super().__init__()
        self.lemma = nn.Embedding(num_lemmas, embedding)
        self.role = nn.Embedding(num_roles, embedding)
        self.mix = nn.Linear(2 * embedding, 2 * width)

    def prepare(self, graphs: GraphBatch) -> Scoring:
        """Return what does not depend on the states."""
        count, num_roles = graphs.num_graphs, self.role.num_embeddings
        lemma = self.lemma(graphs["lemma"])[:, None].expand(-1, num_roles, -1)
        role = self.role.weight.expand(count, -1, -1)
        weights = self.mix(torch.cat([lemma, role], dim=-1)).relu()  # (G, R, 2 D)
        of_token, of_predicate = weights.chunk(2, dim=-1)
        blocks = (graphs.num_nodes_per_graph + BLOCK - 1) // BLOCK
        first = (blocks.cumsum(0) - blocks) * BLOCK
        inside = torch.arange(graphs.num_nodes, device=graphs.device) - graphs.node_ptr[:-1][graphs.batch]
        owner = torch.repeat_interleave(torch.arange(count, device=graphs.device), blocks)
        return Scoring(first[graphs.batch] + inside, of_token[owner].transpose(1, 2), of_predicate)

    def forward(self, state: Tensor, scoring: Scoring, graphs: GraphBatch) -> Tensor:
        """Return logits ``(N, R)`` from states ``(N, D)``."""
        place, of_token, of_predicate = scoring
        predicate = state[graphs.node_ptr[:-1] + graphs["position"]]
        shared = (of_predicate @ predicate[:, :, None])[:, :, 0]  # (G, R)
        blocks = state.new_zeros(len(of_token) * BLOCK, state.shape[1]).index_copy(0, place, state)
        scores = (blocks.view(-1, BLOCK, state.shape[1]) @ of_token).flatten(0, 1)
        return scores.index_select(0, place) + shared.index_select(0, graphs.batch)


class Encoded(NamedTuple):
    """What comes before the first message, and is computed once whatever is masked.

    Args:
        x: ``(N, D)``, the first layer's input.
        transformed: what that layer makes of it.
        scoring: what the scorer knows.
    """

    x: Tensor
    transformed: Transformed
    scoring: Scoring


class RoleLabeller(GraphModel):
    """Role logits ``(N, R)`` of every token, for one predicate in its sentence a graph.

    Reads ``word``, ``known``, ``tag`` and ``flag`` of the nodes, ``edge_type`` and ``direction`` of the edges,
    ``lemma`` and ``position`` of the graphs.

    Args:
        vectors: ``(V, F)``, fixed word vectors, the first of words that have none.
        num_known: words with vectors that are trained, the first for all others.
        num_types, num_lemmas, num_roles: sizes of the vocabularies.
        width: D.
        trained: width of the trained word vectors, and of those of lemmas.
        flag: width of the vectors of the predicate flag, and of tags.
        recurrent: layers of the BiLSTM; 0 for none.
        layers: GCN layers.
        dropout: share of the inputs of every part that is dropped in training.
        connected: see :class:`SyntacticConv`.
        num_tags: size of the vocabulary of tags, where they are inputs; 0: they are not.
        lemma: whether the predicate's lemma is an input, at the predicate alone.
        embedding: width of the scorer's vectors of lemmas and roles.
    """

    def __init__(
        self,
        vectors: Tensor,
        num_known: int,
        num_types: int,
        num_lemmas: int,
        num_roles: int,
        *,
        width: int,
        trained: int,
        flag: int,
        recurrent: int,
        layers: int,
        dropout: float,
        connected: bool = True,
        num_tags: int = 0,
        lemma: bool = False,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.known = nn.Embedding(num_known, trained)
        self.flag = nn.Embedding(2, flag)
        self.tag = nn.Embedding(num_tags, flag) if num_tags else None
        self.lemma = nn.Embedding(num_lemmas, trained) if lemma else None
        inputs = vectors.shape[1] + trained + flag + (flag if num_tags else 0) + (trained if lemma else 0)
        self.dropout = nn.Dropout(dropout)
        self.lstm: nn.LSTM | None = None
        if recurrent:
            self.lstm = nn.LSTM(inputs, width // 2, recurrent, bidirectional=True, batch_first=True)
        else:
            self.initial = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(SyntacticConv(width, num_types, connected) for _ in range(layers))
        self.scorer = RoleScorer(width, num_lemmas, num_roles, embedding)

    def embed(self, graphs: GraphBatch) -> Tensor:
        """Return the tokens' states before the first layer ``(N, D)``."""
        flag = graphs["flag"]
        inputs = [self.get_buffer("vectors")[graphs["word"]], self.known(graphs["known"]), self.flag(flag)]
        if self.tag is not None:
            inputs.append(self.tag(graphs["tag"]))
        if self.lemma is not None:
            inputs.append(self.lemma(graphs["lemma"])[graphs.batch] * flag[:, None])
        x = self.dropout(torch.cat(inputs, dim=-1))
        if self.lstm is None:
            first: Tensor = self.initial(x).relu()
            return first
        padded, mask = to_dense_batch(x, graphs.batch, batch_size=graphs.num_graphs)
        lengths = graphs.num_nodes_per_graph.cpu()
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=padded.shape[1])
        states: Tensor = out[mask]
        return states

    def encode(self, graphs: GraphBatch) -> Encoded:
        """Return all that comes before the first message."""
        x = self.dropout(self.embed(graphs))
        return Encoded(x, self.convolutions[0].transform(x, graphs), self.scorer.prepare(graphs))

    def decode(self, graphs: GraphBatch, state: Encoded) -> Tensor:
        """Pass the messages and score the roles ``(N, R)``."""
        x, transformed, scoring = state
        first, *others = self.convolutions
        x = first(x, graphs.edge_index, transformed)
        for layer in others:
            x = self.dropout(x)
            x = layer(x, graphs.edge_index, layer.transform(x, graphs))
        logits: Tensor = self.scorer(self.dropout(x), scoring, graphs)
        return logits

    @property
    def convolutions(self) -> list[SyntacticConv]:
        """The layers, from the first."""
        return [layer for layer in self.layers if isinstance(layer, SyntacticConv)]

    def gate_modules(self) -> list[nn.Module]:
        """Return the layers' gates."""
        return [layer.gate for layer in self.convolutions]
