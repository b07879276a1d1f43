"""What a model on this machine is told: plainer than `prompts`, since small ones write bad JSON.

The material comes first and the task behind it, where a small model still has it in view. The
material is tokenised as text, so nothing in it can end the turn.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from openclara.synthesis.teachers.prompts import mark_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openclara.synthesis.tasks import Task, TaskKind

SYSTEM: Final = "You do what the task says with the given text, and nothing else."

TASKS: Final[Mapping[TaskKind, str]] = {
    "simple_qa": (
        "Write five short questions about the text above, one per line. Each question asks for "
        "one name, number, date, place or other fact of the text and says who or what it is about."
    ),
    "complex_qa": (
        "Write three questions about the text above, one per line. To answer each of them one "
        "has to put together two different sentences of the text."
    ),
    "answer": (
        "Answer the question with a few words copied from the text above. If the text does not "
        "say, answer: none"
    ),
    "judge_pair": "Does the text above say that this is the answer to the question? Say yes or no.",
    "paraphrase": (
        "Rewrite the text above in other words. Keep every name, number and fact and add nothing."
    ),
    "judge_paraphrase": (
        "Does the rewritten text say the same as the text, with nothing missing and nothing "
        "added? Say yes or no."
    ),
}
_MORE: Final = "Do not repeat these questions:"
_UNCOVERED: Final = "Ask about these:"


def write_local_request(task: Task) -> str:
    """The user turn for a task; equal tasks give equal turns."""
    questions = task.kind in ("simple_qa", "complex_qa")
    asked = [pair.question for pair in task.pairs] if questions else []
    wanted = list(task.uncovered) if questions else []
    texts = [task.title, task.document, task.question, task.answer, task.paraphrase]
    mark = mark_of([*texts, *asked, *wanted])[:8]
    lines = [f"Text, up to the line {mark}:", *([task.title] if task.title else []), task.document]
    lines += [mark, ""]
    if task.paraphrase:
        lines += [f"Rewritten text, up to the line {mark}:", task.paraphrase, mark, ""]
    if asked:
        lines += [_MORE, *asked, ""]
    if wanted:
        lines += [_UNCOVERED, ", ".join(wanted), ""]
    lines += [f"Task: {TASKS[task.kind]}"]
    if task.question:
        lines += [f"Question: {task.question}"]
    if task.answer:
        lines += [f"Answer: {task.answer}"]
    return "\n".join(lines)


def local_prompts_version() -> str:
    """Checksum of all wording here, for fingerprints."""
    everything = json.dumps([SYSTEM, dict(TASKS), _MORE, _UNCOVERED])
    return hashlib.sha256(everything.encode()).hexdigest()[:16]
