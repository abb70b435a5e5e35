"""Question answering over several documents (Section 5 of the GraphMask paper): `qa`.

**The data** are 4,000 / 500 / 500 questions made of real facts, in WikiHop's format (licences:
``tasks/qa/data/NOTICE``), with documents that hold them in sentences of several phrasings. Their names, and the
countries that they are about, differ between the splits, so that nothing is answered from memory. A third of the
questions is answered in the document of their subject; for the others one bridge leads to the document that answers:
subject -DOC-BASED- bridge -MATCH- bridge -DOC-BASED- answer. ``python -m attribench.tasks.qa.baselines`` prints what
answers them without a model. They are *not* WikiHop, whose text is Wikipedia's; ``--data-dir`` reads the original
``train.json`` and ``dev.json``, of which half is for validation and half is test, and other files in that format.

**The graphs** are De Cao et al.'s (NAACL 2019): nodes are mentions of the candidates and of the query's subject, edges
of four types say how two mentions belong together. All pairs are joined. Coreference is found by a rule, or read from
``coreference_file``.

**The model** is theirs, too, with fixed word vectors: a BiLSTM over the query, three calls of one R-GCN layer with a
gated update, the best mention of every candidate. Unlike theirs it is told which mentions are of the query's subject
(``flag=false`` leaves that to be found by name, for which its eight epochs are far too few), its word vectors are the
bundled ones (50 numbers a word), and messages are normalised by relation (``normalisation=all`` as published, with
which it learns more slowly). ``form=dense`` passes messages by adjacency matrices, ``form=list`` by a message for every
edge: the same parameters and the same outputs.

**The gold** is the chain of a question: its k-th edge in the k-th layer, and a chain of one edge in the last. It is a
claim about the model, which is tested: with these messages alone the prediction stays, and without any one of them it
changes. The card says for how many questions it does, by length of the chain.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attribench.base.errors import UserError
from attribench.base.reading import data_checksum
from attribench.base.seeds import generator
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.model.output_choice import MultipleChoice
from attribench.plugins.method import config, untracked
from attribench.plugins.registry import TASKS
from attribench.plugins.task import Problem, Split, Task, TaskSeeds, Workshop, findings_of_study

from ..srl.glove import coverage
from .coreference import Chains, read_chains
from .graphs import EDGE_TYPES, Graphs, Limits, MentionGraph, make_graphs
from .model import CALLS, Answerer, Form, Normalisation
from .splits import Sizes, example, make_split
from .vectors import DATA, VECTORS, WordVectors
from .wikihop import Item, LeftOut, read_wikihop

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
MAX_NORM = 1.0
"""Gradients are clipped to this norm."""
LEAST_COVERED = 0.5
"""Share of the words of training queries and mentions with a vector below which there is a warning."""
PASS_EDGES = 50_000
"""Edges of one pass of training or testing."""
KEPT, CHANGED = 0.95, 0.7
"""Shares of questions with which the gold counts as confirmed: whose prediction stays with the chain alone, and changes
without any of its edges. Of five candidates of a kind one is guessed, so the latter cannot be much more than 0.8."""


@config
class QAConfig:
    """Options."""

    data_dir: str = Field("", description="folder of files in WikiHop's format; the bundled questions where empty")
    train_file: str = Field("", description="name of the training file in the folder; train.json where empty")
    validation_file: str = Field("", description="name of the development file; dev.json where empty")
    test_file: str = Field("", description="name of the test file; where empty, half of the development file is test")
    vectors_file: str = Field(
        "", description="GloVe text file in the folder; where empty the bundled vectors, and spelling for other words"
    )
    coreference_file: str = Field("", description="file of coreference chains in the folder; by a rule where empty")
    form: Form = Field("dense", description="messages by adjacency matrices, or a list with a message for every edge")
    normalisation: Normalisation = Field(
        "relation", description="messages are divided by a node's edges of their relation, or by all"
    )
    flag: bool = Field(True, description="whether the model is told which mentions are of the query's subject")
    edges: Literal["graph", "none"] = Field(
        "graph", description="none: a model of the same size that receives no message"
    )
    chain: Literal["any", "one", "three"] = Field(
        "any", description="edges in the gold chain of the questions that are explained"
    )
    explained: int = Field(100, ge=1, description="questions of validation and of test that are explained, at random")
    items: int = Field(0, ge=0, description="most questions of every split, at random; 0: all")
    nodes: int = Field(500, ge=2, description="most mentions of a graph")
    query: int = Field(25, ge=1, description="most words of a query")
    candidates: int = Field(80, ge=2, description="most candidates of a question")
    width: int = Field(64, ge=2, multiple_of=2, description="of the states")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of the inputs of every part that is dropped in training")
    epochs: int = Field(8, ge=1, description="the one with the best accuracy on validation is kept")
    batch_size: int = Field(32, ge=1, description="questions of one training step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam")

    def __post_init__(self) -> None:
        for name in ("train_file", "validation_file", "test_file", "vectors_file", "coreference_file"):
            value = getattr(self, name)
            if Path(value).name != value:
                raise UserError(
                    f"expected {name} as the name of a file in the folder; got {value!r}: move the file there"
                )
            if value and not self.data_dir:
                raise UserError(f"expected --data-dir, the folder of {name} {value!r}; got none: say it")

    @property
    def limits(self) -> Limits:
        """How much of a question is taken."""
        return Limits(nodes=self.nodes, query=self.query, candidates=self.candidates)


@cache
def load(path: Path, checksum: str) -> tuple[list[Item], LeftOut]:
    """Return the items of a file; read once per process, the checksum being its content's.

    Raises:
        UserError: when it is malformed, or nothing can be answered.
    """
    return read_wikihop(path)


@cache
def load_chains(path: Path, checksum: str) -> Chains:
    """Return the coreference chains of a file; read once per process.

    Raises:
        UserError: when it is malformed.
    """
    return read_chains(path)


@dataclass(frozen=True)
class Items:
    """Items of a file.

    Args:
        path, checksum: of the file.
        chosen: their places in it; None for all.
    """

    path: Path
    checksum: str
    chosen: tuple[int, ...] | None = None


@lru_cache(maxsize=8)
def graphs_of(items: Items, limits: Limits, coreference: tuple[Path, str] | None) -> Graphs:
    """Return the graphs of items of a file, those of about one size beside each other; made once per process."""
    every = load(items.path, items.checksum)[0]
    chosen = every if items.chosen is None else [every[i] for i in items.chosen]
    made = make_graphs(chosen, limits, None if coreference is None else load_chains(*coreference))
    # what is passed together is padded to the largest
    return replace(made, graphs=sorted(made.graphs, key=lambda graph: graph.num_nodes))


@TASKS.register
class QuestionAnswering(Task):
    """Questions over several documents (De Cao et al. 2019): which candidate answers; bundled questions by default."""

    name = "qa"
    Config = QAConfig
    size_option = "explained"
    quick = {"items": 60, "explained": 6, "epochs": 1, "width": 8}
    meanings = {
        "epochs": "epochs of training",
        "best_epoch": "epoch with the best accuracy on validation, which is kept",
        "validation": "accuracy on all validation questions",
        "test": "accuracy on all test questions",
        "test_one": "the same of questions with a chain of one edge",
        "test_three": "the same of questions with a chain of three edges",
        "audit_kept": "share of test questions whose prediction stays with the gold messages alone",
        "audit_kept_one": "the same of questions with a chain of one edge",
        "audit_kept_three": "the same of questions with a chain of three edges",
        **{
            f"audit_changed_{k}": f"share of those with three edges whose prediction changes without that of layer {k}"
            for k in range(CALLS)
        },
        "audit_changed_one": "the same of questions with a chain of one edge, without this edge in any layer",
    }
    config: QAConfig

    def card(self) -> str:
        """Return what the data and the model are."""
        findings = findings_of_study("qa", Path(__file__).parent.parent)
        return f"# {self.name}\n\n{__doc__}\n{findings}"

    def forms(self, model: GraphModel) -> dict[str, GraphModel]:
        """Return the model by matrices of adjacency, and by a list of edges."""
        assert isinstance(model, Answerer)
        return {"by matrices": model.in_form("dense"), "by a message for every edge": model.in_form("list")}

    def example(self, problem: Problem, num_nodes: int) -> GraphBatch:
        """Return a question of so many mentions, drawn at random."""
        return example(problem.splits["test"].graphs, num_nodes)

    def sources(self) -> dict[str, Path]:
        """Return the files of the data and the vectors.

        Raises:
            UserError: when a file is not there or malformed, or nothing in it can be answered.
        """
        files = self._files
        for name, path in files.items():
            data_checksum(path)
            if name in SPLITS:
                items, left_out = load(path, data_checksum(path))
                if len(left_out):
                    logger.warning("%s: left out %s", path, left_out.report())
                if items[0].answer is None:  # of a file, all have answers or none has
                    raise UserError(f"expected answers in {path}; it has none: use a file with answers")
        return files

    @cached_property
    def _files(self) -> dict[str, Path]:
        settings = self.config
        if not settings.data_dir:
            bundled = {
                split: DATA / f"{name}.json.gz" for split, name in zip(SPLITS, ("train", "dev", "test"), strict=True)
            }
            return {**bundled, "vectors": DATA / VECTORS}
        folder = Path(settings.data_dir)
        files = {
            "train": folder / (settings.train_file or "train.json"),
            "validation": folder / (settings.validation_file or "dev.json"),
            "vectors": folder / settings.vectors_file if settings.vectors_file else DATA / VECTORS,
        }
        for name in ("test", "coreference"):
            value = getattr(settings, f"{name}_file")
            if value:
                files[name] = folder / value
        return files

    def _items(self, seed: int) -> dict[str, Items]:
        """Return which items are in every split."""
        items = {name: Items(path, data_checksum(path)) for name, path in self._files.items() if name in SPLITS}
        if "test" not in items:
            whole = items["validation"]
            count = len(load(whole.path, whole.checksum)[0])
            if count < 2:
                raise UserError(
                    f"expected two items or more in {whole.path}, half of them for test; got {count}: say test_file"
                )
            order = torch.randperm(count, generator=generator("qa halves")).tolist()
            halves = {"validation": order[count // 2 :], "test": order[: count // 2]}
            items |= {name: replace(whole, chosen=tuple(sorted(half))) for name, half in halves.items()}
        return {name: self._sample(name, split, seed) for name, split in items.items()}

    def _sample(self, name: str, items: Items, seed: int) -> Items:
        """Return as many of the items as are wanted, at random; those of validation and test are the same always."""
        places = items.chosen or tuple(range(len(load(items.path, items.checksum)[0])))
        most = self.config.items
        if not 0 < most < len(places):
            return items
        draw = generator("qa sample", name, seed if name == "train" else 0)
        order = torch.randperm(len(places), generator=draw)[:most].tolist()
        return replace(items, chosen=tuple(sorted(places[i] for i in order)))

    def _graphs(self, seed: int) -> dict[str, list[MentionGraph]]:
        """Return the graphs of every split.

        Raises:
            UserError: when no item of a split mentions a candidate.
        """
        path = self._files.get("coreference")
        coreference = None if path is None else (path, data_checksum(path))
        chosen = self._items(seed)
        if coreference is not None:
            ids = {item.id for items in chosen.values() for item in load(items.path, items.checksum)[0]}
            if not ids & load_chains(*coreference).keys():
                raise UserError(f"expected chains by the items' ids in {path}; none is of an item: check the file")
        made = {name: graphs_of(items, self.config.limits, coreference) for name, items in chosen.items()}
        for name, graphs in made.items():
            _tell(name, graphs)
            if not graphs.graphs:
                raise UserError(
                    f"expected items whose documents name a candidate; {name} has none of {len(graphs.left_out)}: "
                    "check the files, or raise nodes"
                )
        return {name: graphs.graphs for name, graphs in made.items()}

    def _vectors(self, graphs: dict[str, list[MentionGraph]]) -> WordVectors:
        """Return the vectors of the words of queries and mentions.

        Raises:
            UserError: when no word of the training graphs is in the file.
        """
        words = {name: [word for graph in every for word in graph.vocabulary()] for name, every in graphs.items()}
        path = self._files["vectors"]
        vectors = WordVectors.load(path, set(chain.from_iterable(words.values())))
        covered = coverage(vectors.rows, words["train"])
        if not covered:
            raise UserError(f"expected vectors of the words; {path}: none is of a training word: check the file")
        if covered < LEAST_COVERED:
            logger.warning(
                "only %.0f%% of the words of training queries and mentions have a vector in %s; the others get one of "
                "their spelling",
                100 * covered,
                path,
            )
        return vectors

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        """Read the data, train the answerer, choose what is explained, and audit the gold."""
        settings, every = self.config, self._graphs(seeds.data_seed)
        vectors = self._vectors(every)
        sizes = Sizes.of([graph for graphs in every.values() for graph in graphs])
        splits = {name: make_split(every[name], vectors, sizes, name).to(workshop.device) for name in SPLITS}
        model = Answerer(
            vectors.size,
            len(EDGE_TYPES),
            width=settings.width,
            dropout=settings.dropout,
            form=settings.form,
            normalisation=settings.normalisation,
            connected=settings.edges != "none",
            flag=settings.flag,
        ).to(workshop.device)

        def fit() -> dict[str, float]:
            figures = self._train(model, splits["train"], splits["validation"], seeds.model_seed, workshop.track)
            return {**figures, **_accuracies(model, splits)}

        figures = workshop.cached(model, fit)
        model.eval()
        confirmed = None
        if splits["test"].gold is not None:
            figures = {**figures, **audit(model, _of_length(splits["test"], settings.chain))}
            confirmed = is_confirmed(figures)
        output = MultipleChoice(unseen=True)
        for name in ("validation", "test"):
            whole = _of_length(splits[name], settings.chain)
            splits[name] = whole.sample(settings.explained, generator("qa explained", name))  # the same for every seed
        return Problem(model, output, splits, EDGE_TYPES, figures, confirmed)

    def _train(
        self, model: Answerer, train: Split, validation: Split, seed: int, track: Any = untracked
    ) -> dict[str, float]:
        """Train for a fixed number of epochs; keep the weights of the one with the best accuracy on validation."""
        settings, output = self.config, MultipleChoice()
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        draw = generator("qa training", seed)
        # what the model cannot answer teaches it nothing
        known = _answerable(train).nonzero()[:, 0].cpu()
        if not len(known):
            raise UserError("expected training items whose documents mention the answer; none does: check the files")
        sizes = train.graphs.num_nodes_per_graph.cpu()[known]
        epochs = [batches(sizes, settings.batch_size, draw) for _ in range(settings.epochs)]
        steps = iter(track(range(sum(map(len, epochs))), "training the answerer"))
        best, weights, kept = -1.0, model.state_dict(), 0
        for epoch, order in enumerate(epochs):
            model.train()
            for index in order:
                part = train.select(known[index].to(train.graphs.device))
                optimizer.zero_grad()
                F.cross_entropy(output.select(model(part.graphs), part.graphs), part.labels).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
                optimizer.step()
                next(steps)
            reached = float(right(model, validation).double().mean())
            if reached > best:
                best, kept = reached, epoch + 1
                weights = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(weights)
        return {"epochs": float(settings.epochs), "best_epoch": float(kept)}


def batches(sizes: Tensor, batch_size: int, draw: torch.Generator) -> list[Tensor]:
    """Return batches of graphs of like size, in random order."""
    order = (sizes + torch.rand(len(sizes), generator=draw)).argsort().split(batch_size)
    return [order[i] for i in torch.randperm(len(order), generator=draw).tolist()]


@torch.no_grad()
def right(model: Answerer, split: Split) -> Tensor:
    """Return ``(G,)`` bool: is the answer predicted?"""
    model.eval()
    output = MultipleChoice()
    predicted = [output.predict(model(part.batch), part.batch) for part in split.graphs.parts(PASS_EDGES)]
    return torch.cat(predicted) == split.labels


def _answerable(split: Split) -> Tensor:
    """Return ``(G,)`` bool: is the answer mentioned?"""
    choices = split.graphs["choices"]
    beyond = choices.new_zeros(len(choices), 1)
    return torch.cat([choices, beyond], dim=1).gather(1, split.labels[:, None])[:, 0]


def _accuracies(model: Answerer, splits: dict[str, Split]) -> dict[str, float]:
    """Return the accuracies on validation and test, the latter by length of the chain, too."""
    test = right(model, splits["test"]).double()
    found = {"validation": float(right(model, splits["validation"]).double().mean()), "test": float(test.mean())}
    for name, chosen in _lengths(splits["test"]).items():
        found[f"test_{name}"] = float(test[chosen].mean())
    return found


def _lengths(split: Split) -> dict[str, Tensor]:
    """Return ``(G,)`` bool for the lengths of chains that there are, by name: which graphs have such a chain."""
    edges = split.extras.graph["chain"]
    assert isinstance(edges, Tensor)
    chosen = {name: (edges == number).to(split.labels.device) for name, number in (("one", 1), ("three", 3))}
    return {name: graphs for name, graphs in chosen.items() if bool(graphs.any())}


def _of_length(split: Split, length: str) -> Split:
    """Return the graphs of a split with a chain of such a length.

    Raises:
        UserError: where there is none.
    """
    if length == "any":
        return split
    chosen = _lengths(split).get(length)
    if chosen is None:
        raise UserError(
            f"expected questions with a gold chain of {length} in every split; got a split without: use chain=any, or "
            "more items"
        )
    return split.select(chosen.nonzero()[:, 0])


@torch.no_grad()
def audit(model: Answerer, split: Split) -> dict[str, float]:
    """Return for which share of graphs the prediction stays with the gold messages alone, and changes without one.

    What is closed is replaced by zero. Of a chain of one edge no layer is meant more than another: it is closed in all.
    """
    gold, graphs, output, lengths = split.gold, split.graphs, MultipleChoice(), _lengths(split)
    assert gold is not None
    masks = {"kept": gold, "changed_one": (~gold.any(0)).expand_as(gold)}
    for k, edges in enumerate(gold):
        masks[f"changed_{k}"] = torch.ones_like(gold)
        masks[f"changed_{k}"][k] = ~edges
    same: dict[str, list[Tensor]] = {name: [] for name in masks}
    with Gates(model) as gates:
        for part in graphs.parts(PASS_EDGES):
            recording = gates.record(part.batch)
            reference = output.predict(recording.logits, part.batch)
            for name, mask in masks.items():
                logits = recording.forward(mask[:, part.edges].to(recording.logits.dtype))
                same[name].append(output.predict(logits, part.batch) == reference)
    stays = {name: torch.cat(parts).double() for name, parts in same.items()}
    found = {"audit_kept": float(stays["kept"].mean())}
    found |= {f"audit_kept_{name}": float(stays["kept"][chosen].mean()) for name, chosen in lengths.items()}
    for length, names in (("one", ["changed_one"]), ("three", [f"changed_{k}" for k in range(len(gold))])):
        if length in lengths:
            found |= {f"audit_{name}": 1 - float(stays[name][lengths[length]].mean()) for name in names}
    return found


def is_confirmed(figures: dict[str, float]) -> bool:
    """Return whether the audit's figures say that the model uses the chains, whatever their length."""
    kept = [value for name, value in figures.items() if name.startswith("audit_kept")]
    changed = [value for name, value in figures.items() if name.startswith("audit_changed")]
    return min(kept) >= KEPT and min(changed) >= CHANGED


def _tell(name: str, made: Graphs) -> None:
    """Say what was left out and cut of a split, and which chains of a file are of no use."""
    counts = made.counts
    useless = ", ".join(
        f"{counts[what]} {what}" for what in ("chains of several", "chains without a name") if counts[what]
    )
    if useless:
        logger.warning("%s: %s, beside %d that are used", name, useless, counts["chains"])
    cut = ", ".join(f"{counts[what]} {what}" for what in counts if "cut" in what and counts[what])
    if cut:
        logger.warning("%s: %s, beyond nodes, query and candidates", name, cut)
    if len(made.left_out):
        logger.warning("%s: left out %s", name, made.left_out.report())
    if counts["answers not mentioned"]:
        logger.warning("%s: %d answers are not mentioned, and count as missed", name, counts["answers not mentioned"])
