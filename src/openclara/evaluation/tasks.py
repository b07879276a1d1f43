"""Questions with candidates, and apart from them what is right: no system is handed labels."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openclara.data.records import framed, read_records
from openclara.errors import ConfigError, DataError
from openclara.evaluation.bm25 import Bm25
from openclara.evaluation.flashrag import corpus_documents
from openclara.types import Document

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from openclara.config import EvalConfig, Setting, TaskConfig
    from openclara.data.records import Record


@dataclass(frozen=True, slots=True)
class Question:
    """All that rankers and readers are given.

    Attributes:
        id: From the record; unique in its task.
        text: What is asked.
        candidates: Passages to choose from; the id of each is a hash of its title and text.
    """

    id: str
    text: str
    candidates: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """What only scoring sees.

    Attributes:
        answers: What counts as right, the first being the one of the published evaluator.
        relevant: Positions of the gold passages among the candidates.
        n_relevant: Gold passages there are, found or not.
    """

    answers: tuple[str, ...]
    relevant: frozenset[int]
    n_relevant: int


@dataclass(frozen=True, slots=True)
class Task:
    """One data set in one setting.

    Attributes:
        name: As it is shown.
        setting: Where its candidates come from.
        questions: What is asked.
        labels: For each question, in the same order.
    """

    name: str
    setting: Setting
    questions: tuple[Question, ...]
    labels: tuple[Labels, ...]


def load_tasks(recipe: EvalConfig) -> list[Task]:
    """Every data set of a recipe in every setting it can be had in.

    Raises:
        DataError: A file is malformed, or a question comes twice.
        ConfigError: No data set can be had in a setting.
    """
    tasks = []
    for config in recipe.tasks:
        records = _drawn(config, recipe)
        nominated = None
        for setting in recipe.settings:
            if setting == "normal":
                if config.corpus is None:
                    continue
                nominated = nominated or _nominated(config, recipe, records)
                tasks.append(_task(config.name, setting, records, nominated))
            else:
                own = [_own(record, gold_only=setting == "gold") for record in records]
                kept = [(r, o) for r, o in zip(records, own, strict=True) if o]
                if kept:
                    tasks.append(_task(config.name, setting, *zip(*kept, strict=True)))
    for setting in recipe.settings:
        if not any(task.setting == setting for task in tasks):
            what = "`corpus`" if setting == "normal" else "records with passages"
            raise ConfigError(f"no task can be had in the {setting} setting; it needs {what}")
    return tasks


def passage(title: str, text: str) -> Document:
    """A passage under an id made of its contents, so that equal ones are known as equal."""
    digest = hashlib.sha256(framed(title, text).encode(errors="surrogatepass")).hexdigest()
    return Document(id=digest[:24], text=text, title=title)


def _drawn(config: TaskConfig, recipe: EvalConfig) -> list[Record]:
    path = recipe.data_root / config.records
    records = [r for r in read_records(path, passages_optional=True) if r.pairs]
    ids = [record.id for record in records]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{path}: the id {twice!r} comes twice; give each question its own")
    if not records:
        raise DataError(f"{path} holds no question; give a file of records")
    if recipe.limit is None or recipe.limit >= len(records):
        return records
    chosen = random.Random(recipe.seed).sample(range(len(records)), recipe.limit)
    return [records[at] for at in sorted(chosen)]


def _own(record: Record, *, gold_only: bool) -> list[Document]:
    passages = [p for p in record.passages if p.gold or not gold_only]
    return _distinct(passage(p.title, p.text) for p in passages)


def _nominated(
    config: TaskConfig, recipe: EvalConfig, records: Sequence[Record]
) -> list[list[Document]]:
    assert config.corpus is not None
    corpus = _distinct(
        passage(d.title, d.text) for d in corpus_documents(recipe.data_root / config.corpus)
    )
    bm25 = Bm25([framed(d.title, d.text) for d in corpus])
    return [
        [corpus[at] for at in bm25.best(record.pairs[0].question, recipe.n_candidates)]
        for record in records
    ]


def _task(
    name: str,
    setting: Setting,
    records: Sequence[Record],
    candidates: Sequence[Sequence[Document]],
) -> Task:
    questions, labels = [], []
    for record, own in zip(records, candidates, strict=True):
        gold = {d.id for d in _own(record, gold_only=True)}
        questions.append(Question(record.id, record.pairs[0].question, tuple(own)))
        relevant = frozenset(at for at, document in enumerate(own) if document.id in gold)
        labels.append(Labels(record.pairs[0].answers, relevant, len(gold)))
    return Task(name, setting, tuple(questions), tuple(labels))


def _distinct(documents: Iterable[Document]) -> list[Document]:
    return list({document.id: document for document in documents}.values())
