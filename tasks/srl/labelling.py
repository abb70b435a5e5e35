"""Semantic role labelling (Section 6 of the GraphMask paper): `srl-gnn` and `srl-lstm`.

**The data** are UDS-EWT: the sentences, trees, predicates and arguments of Universal Decompositional Semantics 2.0 on
the English Web Treebank, in CoNLL-2009 columns (licences: ``tasks/srl/data/NOTICE``). They are *not* PropBank. UDS
finds arguments by rules over the tree, and the role labels here are derived by rules from relation, voice and tree
(``tasks/srl/roles.py``): so they are partly circular, a model that reads the tree can be nearly perfect, and the path
between predicate and argument is a plausible reference for an explanation, not a proof of faithfulness. There is no
gold mask. The trees are gold trees, where the paper's are predicted. ``--data-dir`` reads the licensed original
(CoNLL-2009 English). Of trees, tags and lemmas each, its predicted columns are read where all files have them, and its
gold ones where none has: ``predicted_trees`` and so on in ``tasks.csv`` say which. Files that differ are refused unless
``columns=gold`` or ``columns=predicted`` decides. A test file whose roles are held back is refused, since F1 against it
is 0 whatever the model; with ``blind`` it is explained, what the model predicts stands for the roles, and F1 says how
much of that is kept.

**The models** are Marcheggiani & Titov's (EMNLP 2017): `srl-gnn` has two syntactic GCN layers and no BiLSTM,
`srl-lstm` a BiLSTM and one layer. Their inputs are words and the predicate's place; tags and the predicate's lemma are
on request (gold tags leave less for the tree to say). One graph is one predicate in its sentence, one prediction all
its roles; the metric is labelled argument F1 (micro, without "O"). ``edges=none`` trains a model of the same size that
receives no message, which is the fair evidence that the tree matters; ``edges=shuffled`` draws heads at random and
deals the relations out anew; two lookup tables are among the figures of every model. Methods explain a fixed subset of
the predicates, 500 of validation and of test, drawn at random, and fit on all of train.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attribench.base.errors import UserError
from attribench.base.reading import data_checksum
from attribench.base.seeds import generator
from attribench.model.graphs import GraphBatch
from attribench.model.output_sequence import SequenceLabelling
from attribench.plugins.method import config, untracked
from attribench.plugins.registry import TASKS
from attribench.plugins.task import Problem, Split, Task, TaskSeeds, Workshop, findings_of_study

from .columns import GOLD, Columns, check_labels, choose, is_blind
from .conll import Sentence, read_conll
from .glove import load_vectors
from .graphs import Vocabulary, make_split, told
from .lookups import lookups
from .model import RoleLabeller

logger = logging.getLogger(__name__)

DATA = Path(__file__).parent / "data"
SPLITS = ("train", "validation", "test")
LEAST = 2
"""How often a word or lemma has to occur to have a number of its own."""
LEAST_COVERED = 0.5
"""Share of the training tokens with a word vector below which there is a warning."""

MAX_NORM = 5.0
"""Gradients are clipped to this norm."""

SMALL = {"dropout": 0.25, "predicates": 0, "recurrent": 1, "embedding": 64, "tag": False, "lemma": False}
PROFILES: dict[str, dict[str, Any]] = {
    "default": {**SMALL, "width": 128, "trained": 50, "flag": 16},
    "quick": {**SMALL, "width": 64, "trained": 25, "flag": 8, "dropout": 0.1, "predicates": 5000},
    "paper": {
        **SMALL, "width": 1024, "trained": 100, "flag": 16, "dropout": 0.2, "recurrent": 3, "embedding": 128,
        "tag": True, "lemma": True,
    },
}  # fmt: skip
"""Sizes, inputs and training set. ``paper``, for a GPU, has the BiLSTM (3 layers of 512 units a direction), the states
and the embeddings of tags, lemmas and roles of Marcheggiani & Titov's released settings (diegma/neural-dep-srl,
``scripts/training_gcn.sh``); fixed vectors, regularisation and training are those of the other profiles."""


@config
class SRLConfig:
    """Options of both tasks; under the name ``srl`` they are set for both."""

    profile: Literal["default", "quick", "paper"] = Field("default", description="sizes of model and training set")
    data_dir: str = Field("", description="folder of CoNLL-2009 files; the bundled UDS-EWT where empty")
    train_file: str = Field("train.conll09.gz", description="name of the training file in the folder")
    validation_file: str = Field("dev.conll09.gz", description="name of the development file")
    test_file: str = Field("test.conll09.gz", description="name of the test file")
    columns: Literal["auto", "gold", "predicted"] = Field(
        "auto", description="trees, tags and lemmas; auto: predicted where every file has them, gold where none has"
    )
    blind: bool = Field(False, description="explain a test file without roles: the predictions stand for them")
    vectors_file: str = Field(
        "", description="GloVe text file in the folder; the bundled ones, of UDS-EWT's words, where empty"
    )
    explained: int = Field(500, ge=1, description="predicates of validation and of test that are explained, at random")
    predicates: int | None = Field(None, ge=0, description="training predicates, at random; 0: all")
    epochs: int = Field(8, ge=1, description="the one with the best F1 on validation is kept")
    width: int | None = Field(None, ge=2, multiple_of=2, description="of the states; None: the profile's")
    tag: bool | None = Field(None, description="whether parts of speech are inputs; None: the profile's")
    lemma: bool | None = Field(None, description="whether the predicate's lemma is one, at the predicate")
    learning_rate: float = Field(2e-3, gt=0, description="Adam")
    batch_tokens: int = Field(1500, ge=1, description="tokens of one training step")
    edges: Literal["tree", "none", "shuffled"] = Field(
        "tree", description="none: a model of the same size that receives no message; shuffled: random heads"
    )

    def __post_init__(self) -> None:
        for name in ("train_file", "validation_file", "test_file", "vectors_file"):
            value = getattr(self, name)
            if Path(value).name != value:
                raise UserError(
                    f"expected {name} as the name of a file in the folder; got {value!r}: move the file there"
                )


@cache
def load(path: Path, checksum: str) -> list[Sentence]:
    """Return the sentences of a file that have predicates; read once per process, the checksum being its content's.

    Raises:
        UserError: when it is malformed, or no sentence has one.
    """
    found = [sentence for sentence in read_conll(path) if sentence.predicates]
    if not found:
        raise UserError(f"expected predicates (FILLPRED Y) in {path}; it has none: check the file")
    return found


@cache
def known_vectors(path: Path, checksum: str, words: frozenset[str]) -> tuple[list[str], np.ndarray]:
    """Return those of the words that have fixed vectors, and the vectors; read once per process.

    Raises:
        UserError: when the file is malformed.
    """
    return load_vectors(path, words)


class SemanticRoles(Task):
    """What both tasks share: everything but the model's depth."""

    Config = SRLConfig
    family = "srl"
    size_option = "explained"
    meanings = {
        "epochs": "epochs of training",
        "best_epoch": "epoch with the best F1 on validation, which is kept",
        "validation": "F1 of roles, all validation predicates",
        "test": "F1 of roles, all test predicates",
        "lookup_offset_and_tag": "F1 of a table of roles by offset from the predicate and tag, in place of a model",
        "lookup_relation": "F1 of a table of roles by relation to the predicate, in place of a model",
        "predicted_trees": "whether trees are predicted ones",
        "predicted_tags": "whether parts of speech are predicted ones",
        "predicted_lemmas": "whether lemmas are predicted ones",
        "blind_test": "whether the test file has no roles",
    }
    quick = {"profile": "quick", "predicates": 200, "explained": 20, "epochs": 1, "width": 16}
    recurrent: ClassVar[bool]
    layers: ClassVar[int]
    config: SRLConfig

    def card(self) -> str:
        """Return what the data are, counted, and what the reference study found."""
        sentences = {name: read_conll(self._files[name]) for name in SPLITS}
        counts = {
            name: {
                "sentences": len(found),
                "tokens": sum(len(s.form) for s in found),
                "predicates": sum(len(s.predicates) for s in found),
                "arguments": sum(role != "_" for s in found for roles in s.roles for role in roles),
            }
            for name, found in sentences.items()
        }
        roles = Counter(role for s in sentences["train"] for roles in s.roles for role in roles if role != "_")
        shares = {name: count / roles.total() for name, count in roles.most_common()}
        tasks = [name for name in TASKS if TASKS[name].family == self.family]
        findings = findings_of_study("srl", Path(__file__).parent.parent, splits=counts, roles=shares, tasks=tasks)
        return f"# {self.name}\n\n{__doc__}\n{findings.strip()}\n"

    def sources(self) -> dict[str, Path]:
        """Return the files of the data and the vectors.

        Raises:
            UserError: when a file is not there, malformed, or without any predicate, no training word has a vector, or
                the files do not belong together.
        """
        sentences, words, _ = self._read()
        tokens = [form.lower() for sentence in sentences["train"] for form in sentence.form]
        covered = sum(map(set(words).__contains__, tokens)) / len(tokens)
        path = self._files["vectors"]
        if not covered:
            raise UserError(f"expected vectors of the words; {path}: none is of a training word: check the file")
        if covered < LEAST_COVERED:
            logger.warning("only %.0f%% of the training tokens have a word vector in %s", 100 * covered, path)
        columns = self._columns(sentences)
        if columns not in (GOLD, Columns("predicted", "predicted", "predicted")):
            logger.warning("%s are read in %s", columns, self._files["train"].parent)
        if is_blind(sentences["test"]):
            logger.warning(
                "%s is a blind test set (every APRED is _): what the model predicts stands for the roles, and F1 says "
                "nothing of the truth",
                self._files["test"],
            )
        return dict(self._files)

    def _columns(self, sentences: dict[str, list[Sentence]]) -> Columns:
        """Return what is read of the files, which are found to belong together."""
        columns = choose({self._files[name]: sentences[name] for name in SPLITS}, self.config.columns)
        check_labels(self._files, sentences, columns, self.config.blind)
        return columns

    def _read(self) -> tuple[dict[str, list[Sentence]], list[str], np.ndarray]:
        """Return the sentences of every split, and the words in them that have fixed vectors, with these."""
        files = self._files
        sentences = {name: load(files[name], data_checksum(files[name])) for name in SPLITS}
        words = frozenset(form.lower() for found in sentences.values() for sentence in found for form in sentence.form)
        return sentences, *known_vectors(files["vectors"], data_checksum(files["vectors"]), words)

    @cached_property
    def _files(self) -> dict[str, Path]:
        settings = self.config
        folder = Path(settings.data_dir) if settings.data_dir else DATA
        names = {"train": settings.train_file, "validation": settings.validation_file, "test": settings.test_file}
        files = {split: folder / name for split, name in names.items()}
        return {
            **files,
            "vectors": folder / settings.vectors_file if settings.vectors_file else DATA / "glove.safetensors",
        }

    def _profile(self, name: str) -> Any:
        """Return a setting, or the profile's where it was not set."""
        given = getattr(self.config, name, None)
        return PROFILES[self.config.profile][name] if given is None else given

    def build(self, seeds: TaskSeeds, workshop: Workshop) -> Problem:
        """Read the data, train the labeller, and choose the predicates that are explained."""
        settings, (sentences, words, vectors) = self.config, self._read()
        columns, blind = self._columns(sentences), is_blind(sentences["test"])
        # What the model has not been trained on, it and the tables do not know.
        sentences["train"] = _sample(sentences["train"], self._profile("predicates"), seeds.data_seed)
        vocabulary = Vocabulary.of(sentences["train"], words, LEAST, columns)
        shuffled = settings.edges == "shuffled"
        train, validation, test = (
            make_split(sentences[name], vocabulary, name, shuffled).to(workshop.device) for name in SPLITS
        )
        model = self._model(vocabulary, torch.from_numpy(vectors).float()).to(workshop.device)

        def fit() -> dict[str, float]:
            figures = self._train(model, train, validation, seeds.model_seed, workshop.track)
            figures["validation"] = f1(model, validation)
            if blind:
                return figures
            return {**figures, "test": f1(model, test), **lookups(sentences["train"], sentences["test"], columns)}

        figures = workshop.cached(model, fit)
        if settings.data_dir:  # the bundled trees are gold
            figures = figures | columns.figures()
        if blind:
            figures["blind_test"] = 1.0
            test = Split(test.graphs, predict(model, test.graphs).argmax(1))
        splits = {"train": train}
        for name, split in (("validation", validation), ("test", test)):
            whole = told(split, sentences[name], vocabulary)
            # the same for every seed
            splits[name] = whole.sample(settings.explained, generator("srl explained", name))
        return Problem(
            model, SequenceLabelling(unseen=True), splits, vocabulary.edge_types(), figures,
            class_names=vocabulary.role_names(),
        )  # fmt: skip

    def _model(self, vocabulary: Vocabulary, vectors: Tensor) -> RoleLabeller:
        return RoleLabeller(
            torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors]),
            len(vocabulary.known) + 1,
            len(vocabulary.edge_types()),
            len(vocabulary.lemmas) + 1,
            len(vocabulary.role_names()),
            width=self._profile("width"),
            trained=self._profile("trained"),
            flag=self._profile("flag"),
            recurrent=self._profile("recurrent") if self.recurrent else 0,
            layers=self.layers,
            dropout=self._profile("dropout"),
            connected=self.config.edges != "none",
            num_tags=len(vocabulary.tags) + 1 if self._profile("tag") else 0,
            lemma=self._profile("lemma"),
            embedding=self._profile("embedding"),
        )

    def _train(
        self, model: RoleLabeller, train: Split, validation: Split, seed: int, track: Any = untracked
    ) -> dict[str, float]:
        """Train for a fixed number of epochs; keep the weights of the one with the best F1 on validation."""
        optimizer = torch.optim.Adam(model.parameters(), lr=self.config.learning_rate)
        draw = generator("srl training", seed)
        best, weights, kept = -1.0, model.state_dict(), 0
        tokens, most = train.graphs.num_nodes_per_graph, self.config.batch_tokens
        batches = [bucketed(tokens, most, draw) for _ in range(self.config.epochs)]
        steps = iter(track(range(sum(map(len, batches))), "training the labeller"))
        for epoch, order in enumerate(batches):
            model.train()
            for index in order:
                part = train.select(index.to(train.graphs.device))
                optimizer.zero_grad()
                F.cross_entropy(model(part.graphs), part.labels).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
                optimizer.step()
                next(steps)
            reached = f1(model, validation)
            if reached > best:
                best, kept = reached, epoch + 1
                weights = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(weights)
        model.eval()
        return {"epochs": float(self.config.epochs), "best_epoch": float(kept)}


@TASKS.register
class GNNRoles(SemanticRoles):
    """Semantic roles from two syntactic GCN layers (Marcheggiani & Titov 2017, without BiLSTM); UDS-EWT by default."""

    name = "srl-gnn"
    recurrent = False
    layers = 2


@TASKS.register
class RecurrentRoles(SemanticRoles):
    """Semantic roles from a BiLSTM and one syntactic GCN layer (Marcheggiani & Titov 2017); UDS-EWT by default."""

    name = "srl-lstm"
    recurrent = True
    layers = 1


@torch.no_grad()
def predict(model: RoleLabeller, graphs: GraphBatch, max_edges: int = 50_000) -> Tensor:
    """Return logits ``(N, roles)``."""
    model.eval()
    return torch.cat([model(part.batch) for part in graphs.parts(max_edges)])


def f1(model: RoleLabeller, split: Split, max_edges: int = 50_000) -> float:
    """Return the labelled argument F1 (micro, without "O") over all predicates of a split."""
    return SequenceLabelling().metric(predict(model, split.graphs, max_edges), split.labels, split.graphs)


def bucketed(sizes: Tensor, batch_tokens: int, draw: torch.Generator) -> list[Tensor]:
    """Return batches of graphs of like size with about ``batch_tokens`` tokens each, in random order."""
    sizes = sizes.cpu()
    order = (sizes + torch.rand(len(sizes), generator=draw)).argsort()
    number = (sizes[order].cumsum(0) - 1) // batch_tokens
    batches = list(order.split(torch.bincount(number).tolist()))
    batches = [batch for batch in batches if len(batch)]
    return [batches[i] for i in torch.randperm(len(batches), generator=draw).tolist()]


def _sample(sentences: list[Sentence], count: int, seed: int) -> list[Sentence]:
    """Return sentences with ``count`` of their predicates, at random; all where it is 0 or there are no more."""
    pairs = [(i, k) for i, sentence in enumerate(sentences) for k in range(len(sentence.predicates))]
    if not count or count >= len(pairs):
        return sentences
    chosen: dict[int, list[int]] = defaultdict(list)
    for place in torch.randperm(len(pairs), generator=generator("srl sample", seed))[:count].sort().values.tolist():
        chosen[pairs[place][0]].append(pairs[place][1])
    return [
        replace(
            sentences[i],
            predicates=[sentences[i].predicates[k] for k in kept],
            pred=[sentences[i].pred[k] for k in kept],
            roles=[sentences[i].roles[k] for k in kept],
        )
        for i, kept in chosen.items()
    ]
