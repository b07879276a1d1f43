"""An evaluation carried out: rankings and predictions are written first, and scored after.

In the output folder, each safe against a kill at any moment:

- `rankings.jsonl`, `predictions.jsonl`, `fidelity.jsonl`: a row for each question and ranker or
  system, by a key made of all it follows from. A row whose key is known is not made again, so a
  second run, or one of a changed recipe, does only what is new.
- `latents/`: an index for each model, so that a passage is compressed once.
- `report.md`, `report.html`, `results.json`, `figures/`: the scores, made anew each time.
- `flashrag/`: the predictions as FlashRAG saves its own.
"""

from __future__ import annotations

import importlib.util
import re
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from openclara.data import prompts
from openclara.data.records import framed
from openclara.errors import ConfigError, ModelError
from openclara.evaluation import rankers as ranking
from openclara.evaluation.dense import DenseEncoder
from openclara.evaluation.flashrag import FlashRagRow, write_flashrag
from openclara.evaluation.journal import Journal, key_of
from openclara.evaluation.metrics import scores
from openclara.evaluation.models import Models, identity
from openclara.evaluation.readers import Asked, ClosedReader, LatentReader, TextReader
from openclara.evaluation.report import write_report
from openclara.evaluation.results import Outcome, results_of
from openclara.evaluation.shortening import BestSentences, Cut, LlmLingua
from openclara.evaluation.tasks import load_tasks
from openclara.model.generator import Decoding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from openclara.config import EvalConfig, FidelityConfig, Ranker, System, TextSystem
    from openclara.evaluation.rankers import RankerOfQuestions
    from openclara.evaluation.readers import Reader
    from openclara.evaluation.shortening import Shortening
    from openclara.evaluation.tasks import Question, Task
    from openclara.model.adapters import Role
    from openclara.pipeline import Clara
    from openclara.types import Document

UNNAMED = {"name", "optional"}
"""Fields of a ranker or system that change nothing it computes."""

WORDING = (
    prompts.SYSTEM,
    prompts.SYSTEM_CLOSED,
    prompts.USER_WITH_BACKGROUND,
    prompts.USER_QUESTION_ONLY,
    prompts.PARAPHRASE_REQUEST,
)
"""What answers follow from besides weights and passages; part of their keys."""

REWRITTEN_TOKENS = 320
"""Longest passage written again: a quarter more than the longest that is read."""


class Progress(Protocol):
    """Where long work is told."""

    def begin(self, what: str, total: int) -> None:
        """Something of a known length begins."""

    def advance(self, done: int) -> None:
        """So much more of it is done."""


class Silent:
    """Nobody watches."""

    def begin(self, what: str, total: int) -> None:
        """Ignored."""

    def advance(self, done: int) -> None:
        """Ignored."""


def evaluate(recipe: EvalConfig, *, command: str, progress: Progress | None = None) -> Path:
    """Carry out a recipe, or go on where it was left, and write the report.

    Args:
        recipe: Tasks, rankers, systems.
        command: What the report says it was made by.
        progress: Where to tell how far it is.

    Returns:
        The folder with the report.

    Raises:
        ConfigError: The recipe contradicts itself or its data.
        DataError: A file is malformed.
        ModelError: A model is missing that is not marked optional.
    """
    if importlib.util.find_spec("matplotlib") is None:
        # Said before the work, not after it.
        raise ConfigError("evaluation needs matplotlib; run `pip install 'openclara[eval]'`")
    outcome = carry_out(recipe, progress)
    write_report(results_of(recipe, outcome, command=command), recipe.output)
    _write_for_flashrag(outcome, recipe.output / "flashrag")
    return recipe.output


def carry_out(recipe: EvalConfig, progress: Progress | None = None) -> Outcome:
    """Every ranking and prediction of a recipe; those that are there already are not made again.

    Args:
        recipe: Tasks, rankers, systems.
        progress: Where to tell how far it is.

    Raises:
        OpenClaraError: As `evaluate`.
    """
    run = _Run(recipe, progress or Silent())
    try:
        return run.carry_out()
    finally:
        run.close()


def _write_for_flashrag(outcome: Outcome, folder: Path) -> None:
    """Every system's predictions on every task, a file each, as FlashRAG saves its own."""
    folder.mkdir(exist_ok=True)
    tasks: dict[tuple[str, str], Task] = {(one.name, one.setting): one for one in outcome.tasks}
    for (name, setting, system), rows in outcome.predictions.items():
        task = tasks[name, setting]
        items = []
        for at, (question, labels) in enumerate(zip(task.questions, task.labels, strict=True)):
            documents = {document.id: document for document in question.candidates}
            scored = scores(rows[at]["text"], labels.answers)
            items.append(
                FlashRagRow(
                    id=question.id,
                    question=question.text,
                    golden_answers=labels.answers,
                    prediction=rows[at]["text"],
                    retrieved=tuple(documents[one] for one in rows[at]["passages"]),
                    scores={"em": scored.exact, "f1": scored.f1},
                )
            )
        file = re.sub(r"[^\w.-]+", "-", f"{name}.{setting}.{system}")
        write_flashrag(folder / f"{file}.json", items)


class _Run:
    def __init__(self, recipe: EvalConfig, progress: Progress) -> None:
        self._recipe = recipe
        self._progress = progress
        self._decoding = Decoding(max_new_tokens=recipe.max_new_tokens)
        self._models = Models(recipe, progress.advance)
        self._tasks = load_tasks(recipe)
        self._skipped: dict[str, str] = {}
        self._orders: dict[tuple[str, str, str], list[list[int]]] = {}
        self._predictions: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self._rewritten: list[dict[str, Any]] = []

    def close(self) -> None:
        self._models.close()

    def carry_out(self) -> Outcome:
        folder = self._recipe.output
        with Journal(folder / "rankings.jsonl") as journal:
            for ranker in self._recipe.rankers:
                self._unless_missing(ranker, partial(self._rank_all, ranker, journal))
        with Journal(folder / "predictions.jsonl") as journal:
            for system in self._recipe.systems:
                self._unless_missing(system, partial(self._read_all, system, journal))
        config = self._recipe.fidelity
        if config is not None:
            with Journal(folder / "fidelity.jsonl") as journal:
                self._unless_missing(config, partial(self._rewrite, config, journal))
        return Outcome(self._tasks, self._orders, self._predictions, self._rewritten, self._skipped)

    def _unless_missing(
        self, config: Ranker | System | FidelityConfig, work: Callable[[], None]
    ) -> None:
        name = getattr(config, "name", "fidelity")
        needed = getattr(config, "ranker", None)
        if needed in self._skipped:
            self._skipped[name] = f"its ranker, {needed}, was left out"
            return
        try:
            work()
        except ModelError as error:
            if not getattr(config, "optional", False):
                raise
            self._skipped[name] = str(error)

    # -- ranking --------------------------------------------------------------------------------

    def _rank_all(self, config: Ranker, journal: Journal) -> None:
        what = config.model_dump(mode="json", exclude=UNNAMED)
        model = getattr(config, "model", None)
        weights = model if config.kind == "dense" or model is None else identity(model)
        for task in self._tasks:
            made_by = (what, weights, self._recipe.precision, self._recipe.seed)
            keys = [
                key_of(made_by, q.id, q.text, [d.id for d in q.candidates]) for q in task.questions
            ]
            # BM25 weighs words by the whole task: one question more and all are ranked again.
            keys = [key_of(key, keys) for key in keys]
            if any(key not in journal.rows for key in keys):
                documents = {d.id for q in task.questions for d in q.candidates}
                self._begin(config.name, task, len(documents))
                orders = self._ranker(config, task).rank(task.questions)
                journal.add(
                    {"key": key, **_named(task, "ranker", config.name), "id": q.id, "order": order}
                    for key, q, order in zip(keys, task.questions, orders, strict=True)
                )
            self._orders[task.name, task.setting, config.name] = [
                journal.rows[key]["order"] for key in keys
            ]

    def _ranker(self, config: Ranker, task: Task) -> RankerOfQuestions:
        match config.kind:
            case "given":
                return ranking.Given()
            case "random":
                return ranking.Random(self._recipe.seed)
            case "bm25":
                return ranking.Lexical()
            case "gold":
                labels = zip(task.questions, task.labels, strict=True)
                return ranking.Gold({q.id: label.relevant for q, label in labels})
            case "dense":
                return ranking.Dense(DenseEncoder.load(config.model, device=self._recipe.device))
        clara, store = self._models.clara(config.model), self._models.store(config.model)
        n_memory = self._models.n_memory(config.model, config.n_memory)
        latent = ranking.Latent(clara, store, n_memory=n_memory)
        if config.kind == "latent":
            return latent
        return ranking.Hybrid(latent, latent_weight=clara.card.latent_weight)

    # -- reading --------------------------------------------------------------------------------

    def _read_all(self, config: System, journal: Journal) -> None:
        what = config.model_dump(mode="json", exclude={*UNNAMED, "ranker"})
        what |= {
            "decoding": asdict(self._decoding),
            "weights": identity(config.model),
            "precision": self._recipe.precision,
            "wording": WORDING,
        }
        for task in self._tasks:
            asked = self._asked(config, task)
            keys = [key_of(what, a.question, [d.id for d in a.documents]) for a in asked]
            pending = [at for at, key in enumerate(keys) if key not in journal.rows]
            if pending:
                self._read(config, task, asked, keys, pending, journal)
            self._predictions[task.name, task.setting, config.name] = [
                journal.rows[key] for key in keys
            ]

    def _read(
        self,
        config: System,
        task: Task,
        asked: Sequence[Asked],
        keys: Sequence[str],
        pending: Sequence[int],
        journal: Journal,
    ) -> None:
        reader = self._reader(config)
        documents = [document for at in pending for document in asked[at].documents]
        if config.reader == "latents":
            self._begin(f"{config.name}, compressing", task, len({d.id for d in documents}))
        reader.prepare(documents)
        self._begin(config.name, task, len(asked))
        self._progress.advance(len(asked) - len(pending))
        reader.read([asked[pending[0]]])  # pays for merging a role, so that no batch does
        # Of like length together: less padding.
        order = sorted(pending, key=lambda at: sum(len(d.text) for d in asked[at].documents))
        for start in range(0, len(order), self._recipe.batch):
            batch = order[start : start + self._recipe.batch]
            started = time.perf_counter()
            readings = reader.read([asked[at] for at in batch])
            ms = (time.perf_counter() - started) * 1000 / len(batch)
            journal.add(
                {
                    "key": keys[at],
                    **_named(task, "system", config.name),
                    "id": task.questions[at].id,
                    "question": asked[at].question,
                    "passages": [document.id for document in asked[at].documents],
                    **asdict(reading),
                    "ms": round(ms, 3),
                }
                for at, reading in zip(batch, readings, strict=True)
            )
            self._progress.advance(len(batch))

    def _asked(self, config: System, task: Task) -> list[Asked]:
        if config.reader == "none":
            return [Asked(question.text, ()) for question in task.questions]
        orders = self._orders[task.name, task.setting, config.ranker]
        return [
            Asked(question.text, _first(question, order, self._recipe.k))
            for question, order in zip(task.questions, orders, strict=True)
        ]

    def _reader(self, config: System) -> Reader:
        clara = self._models.clara(config.model)
        if config.reader == "latents":
            store = self._models.store(config.model)
            n_memory = self._models.n_memory(config.model, config.n_memory)
            return LatentReader(clara, store, n_memory=n_memory, decoding=self._decoding)
        role: Role | None = "generator" if config.adapters else None
        if config.reader == "none":
            return ClosedReader(clara, role=role, decoding=self._decoding)
        shortening = self._shortening(config, clara)
        return TextReader(clara, role=role, decoding=self._decoding, shortening=shortening)

    def _shortening(self, config: TextSystem, clara: Clara) -> Shortening | None:
        match config.shorten:
            case None:
                return None
            case "cut":
                return Cut(clara.tokenizer, config.tokens_per_passage)
            case "sentences":
                return BestSentences(clara.tokenizer, config.tokens_per_passage)
            case "llmlingua":
                return LlmLingua(config.compressor, clara.tokenizer, config.tokens_per_passage)

    # -- fidelity -------------------------------------------------------------------------------

    def _rewrite(self, config: FidelityConfig, journal: Journal) -> None:
        """Gold passages written again from their latents, a row for each passage and rate."""
        clara, store = self._models.clara(config.model), self._models.store(config.model)
        documents = self._whole_passages(config, clara)
        made_by = (identity(config.model), self._recipe.precision, WORDING, REWRITTEN_TOKENS)
        keys = {
            (n_memory, one.id): key_of(made_by, n_memory, one.id)
            for n_memory in config.n_memory
            for one in documents
        }
        self._progress.begin("fidelity, compressing", len(documents))
        store.add(documents)
        self._progress.begin("fidelity", len(keys))
        decoding = Decoding(max_new_tokens=REWRITTEN_TOKENS)
        for n_memory in config.n_memory:
            pending = [d for d in documents if keys[n_memory, d.id] not in journal.rows]
            for start in range(0, len(pending), self._recipe.batch):
                batch = pending[start : start + self._recipe.batch]
                hits = store.hits(batch, n_memory=n_memory)
                requests = [prompts.PARAPHRASE_REQUEST] * len(batch)
                answers = clara.answer(requests, hits, decoding=decoding)
                journal.add(
                    {
                        "key": keys[n_memory, one.id],
                        "model": config.model,
                        "n_memory": n_memory,
                        "passage": framed(one.title, one.text),
                        "text": answer.text,
                    }
                    for one, answer in zip(batch, answers, strict=True)
                )
                self._progress.advance(len(batch))
        self._rewritten = [journal.rows[key] for key in keys.values()]

    def _whole_passages(self, config: FidelityConfig, clara: Clara) -> list[Document]:
        """As many gold passages as wanted that are one stretch each, evenly from all tasks."""
        found: dict[str, Document] = {}
        for task in self._tasks:
            for question, labels in zip(task.questions, task.labels, strict=True):
                for at in sorted(labels.relevant):
                    found[question.candidates[at].id] = question.candidates[at]
        fitting = [one for one in found.values() if len(clara.chunk(one)) == 1]
        step = max(1, len(fitting) // config.passages)
        return fitting[::step][: config.passages]

    def _begin(self, what: str, task: Task, total: int) -> None:
        self._progress.begin(f"{task.name} · {task.setting} · {what}", total)


def _first(question: Question, order: Sequence[int], k: int) -> tuple[Document, ...]:
    return tuple(question.candidates[at] for at in order[:k])


def _named(task: Task, kind: str, name: str) -> Mapping[str, str]:
    return {"task": task.name, "setting": task.setting, kind: name}
