"""`openclara demo`: the whole main job on the bundled passages."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import re
import statistics
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openclara.cli import render
from openclara.cli.asking import answer_record
from openclara.cli.loading import load_model
from openclara.cli.options import AtLeastOne, Json, ModelOptions
from openclara.corpus import CorpusQuestion, passages, questions
from openclara.types import Answer, Usage

if TYPE_CHECKING:
    from openclara.index import IndexInfo, LatentIndex
    from openclara.pipeline import Clara

ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Asked:
    """A question of the demo and what came of it."""

    question: CorpusQuestion
    answer: Answer

    @property
    def right(self) -> bool:
        """Whether the answer holds an accepted one."""
        return holds(self.answer.text, self.question.answers)

    @property
    def cited(self) -> bool:
        """Whether every passage that the question needs was found."""
        return set(self.question.passages) <= {hit.document.id for hit in self.answer.hits}


def demo(
    *,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    questions: AtLeastOne = 12,
    k: AtLeastOne | None = None,
    n_memory: AtLeastOne | None = None,
    as_json: Json = False,
) -> None:
    """Index the bundled passages, ask questions about them, and show answers and costs.

    The index is kept in the cache folder, so a second run compresses nothing.

    Args:
        model: Which model.
        questions: How many to ask; the first dozen were chosen to show the passages off.
        k: Passages to answer each from; as many as is best for the model if left out.
        n_memory: Latents for each passage; the model's own number if left out.
        as_json: Print JSON instead.
    """
    from openclara.model.zoo import DEFAULT_MODEL

    clara = load_model(model.model or DEFAULT_MODEL, model, n_memory=n_memory)
    folder = _folder(clara)
    with _filled(clara, folder) as index:
        asked = _ask(clara, index, _chosen(questions), k=k)
        about = index.info()
    medians = _medians([one.answer.usage for one in asked])
    if as_json:
        render.json_line(_record(clara, folder, asked, medians, about))
        return
    titles = [
        [(hit.document.title, hit.document.id in one.question.passages) for hit in one.answer.hits]
        for one in asked
    ]
    render.answers(
        (one.question.question, one.answer.text, one.right, one.question.answers[0], cited)
        for one, cited in zip(asked, titles, strict=True)
    )
    render.result(_score(asked))
    render.blank()
    render.fields(_meter(medians, about))
    render.blank()
    render.result("Next, with documents of your own:")
    render.result("  openclara index add my.index FOLDER")
    render.result('  openclara ask my.index "A question about them"')


def _chosen(number: int) -> list[CorpusQuestion]:
    """The show-pieces first, then the others in their order."""
    first = questions(demo=True)
    return [*first, *(one for one in questions() if one not in first)][:number]


def _folder(clara: "Clara") -> Path:
    """Where the demo's index of this model is kept."""
    from openclara.model.base import cache_folder

    spec = clara.latent_spec
    return cache_folder() / "demo" / f"{spec.fingerprint[:12]}-{spec.n_memory}.index"


def _filled(clara: "Clara", folder: Path) -> "LatentIndex":
    """The index of the bundled passages; what is in it from an earlier run is not done again."""
    from openclara.index import LatentIndex

    documents = passages()
    index = LatentIndex.open(folder, clara.latent_spec)
    with render.adding(len(documents)) as progress:
        stream = clara.compress(progress.reading(documents), on_progress=progress.compressed)
        report = index.add(stream, on_progress=progress.stored)
    if report.added or report.updated:
        render.note(f"indexed {len(documents)} passages, {progress.rate:.1f} documents/s")
    else:
        render.note(f"{len(documents)} passages were indexed before; nothing was compressed")
    return index


def _ask(
    clara: "Clara", index: "LatentIndex", chosen: Sequence[CorpusQuestion], *, k: int | None
) -> list[Asked]:
    """One question at a time, as a user would: a batch has no time to its first token."""
    asked = []
    with render.steps("answering", len(chosen)) as bar:
        for number, question in enumerate(chosen, start=1):
            asked.append(Asked(question, clara.ask(question.question, index, k=k)))
            bar.at(number)
    return asked


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether a text holds one of some answers, in whole words, case and articles aside."""
    given = f" {_normalised(text)} "
    return any(f" {_normalised(answer)} " in given for answer in answers)


def _normalised(text: str) -> str:
    """Text as the SQuAD score compares it: no case, punctuation, articles or extra space."""
    text = text.lower().translate(str.maketrans(string.punctuation, " " * len(string.punctuation)))
    return " ".join(ARTICLES.sub(" ", text).split())


def _medians(usages: Sequence[Usage]) -> dict[str, float]:
    """The middle value of each field: the first question also warms the machine up."""
    return {
        field.name: statistics.median(getattr(usage, field.name) for usage in usages)
        for field in fields(Usage)
    }


def _score(asked: Sequence[Asked]) -> str:
    n_cited, n_right = sum(one.cited for one in asked), sum(one.right for one in asked)
    return (
        f"{n_cited} of {len(asked)} questions found every passage they need (✓), "
        f"{n_right} of {len(asked)} answers hold the expected one."
    )


def _meter(medians: dict[str, float], about: "IndexInfo") -> list[tuple[str, str]]:
    prompt, text = medians["prompt_tokens"], medians["text_prompt_tokens"]
    return [
        ("prompt", f"{prompt:.0f} tokens with latents, {text:.0f} with the passages' full text"),
        (
            "rate",
            f"{medians['nominal_rate']:.1f} nominal, {medians['effective_rate']:.1f} effective "
            "tokens a latent",
        ),
        (
            "time",
            f"embed {medians['embed_ms']:.0f} ms, search {medians['search_ms']:.0f} ms, "
            f"first token {medians['first_token_ms']:.0f} ms, total {medians['total_ms']:.0f} ms",
        ),
        (
            "index",
            f"{render.size(about.latent_bytes / about.documents)} of latents a document, "
            f"{render.size(about.total_bytes)} on disk with texts and words",
        ),
    ]


def _record(
    clara: "Clara",
    folder: Path,
    asked: Sequence[Asked],
    medians: dict[str, float],
    about: "IndexInfo",
) -> dict[str, Any]:
    return {
        "model": clara.latent_spec.model,
        "n_memory": clara.latent_spec.n_memory,
        "questions": [
            {
                **answer_record(one.answer),
                "expected": list(one.question.answers),
                "needed": list(one.question.passages),
                "right": one.right,
                "cited": one.cited,
            }
            for one in asked
        ],
        "right": sum(one.right for one in asked),
        "cited": sum(one.cited for one in asked),
        "median_usage": medians,
        "index": {"path": str(folder), **asdict(about), "total_bytes": about.total_bytes},
    }
