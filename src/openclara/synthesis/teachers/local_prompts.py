"""What a model on this machine is told: plainer than `prompts`, since small ones write bad JSON.

Demonstrations go ahead as earlier turns: without them a model of 135 million parameters asks
for "the author of the text". Every line of the material begins as quotations do, so nothing in it
can stand outside; and it is tokenised as text, so nothing in it can end the turn.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from openclara.synthesis.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openclara.synthesis.tasks import TaskKind

SYSTEM: Final = "You do each task with the quoted passage alone, and write nothing else."

TASKS: Final[Mapping[TaskKind, str]] = {
    "simple_qa": (
        "Write questions that the passage answers, one per line. Each asks for one name, place, "
        "date, number or other fact and says who or what it is about."
    ),
    "complex_qa": (
        "Write questions that need two sentences of the passage to answer, one per line."
    ),
    "answer": (
        "Answer the question with a few words copied from the passage, or with: none, if it does "
        "not say."
    ),
    "judge_pair": "Does the passage say that this is the answer to the question? Say yes or no.",
    "paraphrase": (
        "Say the passage in other words. Keep every name, number and fact and add nothing."
    ),
    "judge_paraphrase": (
        "Does the other passage say the same, with nothing missing and nothing added? Say yes or "
        "no."
    ),
}
_MORE: Final = "Write none of these again:"
_UNCOVERED: Final = "Ask about these:"

_PASSAGE: Final = (
    "Halden Lake lies in the north of Varmia and is 14 kilometres long. It was first mapped by "
    "the explorer Ilse Torben in 1887. Torben also founded the town of Rask, where she died."
)
_REWORDED: Final = (
    "In the north of Varmia there is a lake of 14 kilometres in length, Halden Lake. The first map "
    "of it was made in 1887 by Ilse Torben, an explorer. The town of Rask was founded by Torben as "
    "well, and it is where she died."
)


def _answered(question: str, reply: str) -> tuple[Task, str]:
    return Task("answer", _PASSAGE, question=question), reply


DEMONSTRATIONS: Final[Mapping[TaskKind, tuple[tuple[Task, str], ...]]] = {
    "simple_qa": (
        (
            Task("simple_qa", _PASSAGE),
            "Where does Halden Lake lie?\nHow long is Halden Lake?\n"
            "Who first mapped Halden Lake?\nIn what year was Halden Lake mapped?\n"
            "Which town did Ilse Torben found?",
        ),
    ),
    "complex_qa": (
        (
            Task("complex_qa", _PASSAGE),
            "In which town did the explorer who first mapped Halden Lake die?\n"
            "Which lake was mapped by the founder of Rask?",
        ),
    ),
    "answer": (
        _answered("When was Halden Lake first mapped?", "1887"),
        _answered("What did Ilse Torben found?", "the town of Rask"),
        _answered("How deep is Halden Lake?", "none"),
        _answered("Where does Halden Lake lie?", "in the north of Varmia"),
    ),
    "judge_pair": (
        (Task("judge_pair", _PASSAGE, question="Who founded Rask?", answer="Torben"), "yes"),
        (Task("judge_pair", _PASSAGE, question="Who founded Rask?", answer="Varmia"), "no"),
    ),
    "paraphrase": ((Task("paraphrase", _PASSAGE), _REWORDED),),
    "judge_paraphrase": ((Task("judge_paraphrase", _PASSAGE, paraphrase=_REWORDED), "yes"),),
}


def write_local_request(task: Task) -> str:
    """The user turn for a task; equal tasks give equal turns."""
    named = f"{task.title}\n{task.document}" if task.title else task.document
    lines = ["Passage:", _quoted(named)]
    if task.kind == "judge_paraphrase":
        lines += ["Other passage:", _quoted(task.paraphrase)]
    if task.kind in ("simple_qa", "complex_qa"):
        if task.pairs:
            lines += [_MORE, _quoted("\n".join(pair.question for pair in task.pairs))]
        if task.uncovered:
            lines += [_UNCOVERED, _quoted("\n".join(task.uncovered))]
    lines += [TASKS[task.kind]]
    if task.kind in ("answer", "judge_pair"):
        lines += ["Question:", _quoted(task.question)]
    if task.kind == "judge_pair":
        lines += ["Answer:", _quoted(task.answer)]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


def local_prompts_version() -> str:
    """Checksum of all wording here, for fingerprints."""
    shown = [
        [write_local_request(task), reply]
        for pairs in DEMONSTRATIONS.values()
        for task, reply in pairs
    ]
    everything = json.dumps([SYSTEM, dict(TASKS), _MORE, _UNCOVERED, shown])
    return hashlib.sha256(everything.encode()).hexdigest()[:16]
