"""Whether an answer fits its question, and a paraphrase its document, as far as rules can tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from openclara.synthesis.teachers.rules.answering import LEAST_SHARED, content_words, share
from openclara.synthesis.teachers.rules.documents import split_sentences
from openclara.synthesis.teachers.rules.spans import COUNT, DATE, capitals, numerals

if TYPE_CHECKING:
    from openclara.synthesis.teachers.rules.documents import Document


def judge_pair(document: Document, question: str, answer: str) -> str:
    """Why a pair is bad; empty for one that holds together.

    The answer must stand in the document, word for word up to case and whitespace, be no part of
    the question, be of the kind that is asked for, and stand in or next to a sentence that has to
    do with the question.
    """
    said = " ".join(answer.split()).rstrip(".").lower()
    if not said:
        return "there is no answer"
    holds = [
        number
        for number, sentence in enumerate(document.sentences)
        if re.search(rf"(?<!\w){re.escape(said)}(?!\w)", sentence.lower())
    ]
    if not holds:
        return "the document does not have the words of the answer"
    if re.search(rf"(?<!\w){re.escape(said)}(?!\w)", question.lower()) and " or " not in question:
        return "the question holds its answer"
    if reason := _wrong_kind(question.lower(), answer):
        return reason
    asked = content_words(question)
    near = {number for place in holds for number in (place - 1, place, place + 1)}
    if said in document.title.lower():
        # What all of it is about may be called "he" anywhere.
        near = set(range(len(document.sentences)))
    if asked and document.sentences:
        # A question that joins two sentences has the other half elsewhere.
        near.add(
            max(range(len(document.sentences)), key=lambda at: share(asked, document.sentences[at]))
        )
    text = " ".join(one for number, one in enumerate(document.sentences) if number in near)
    if asked and share(asked, f"{document.title} {text}") < LEAST_SHARED:
        return "what stands around the answer is not what the question asks about"
    return ""


def _wrong_kind(question: str, answer: str) -> str:
    if re.match(r"when\b|in what year", question) and not re.search(DATE, answer):
        return "the question asks for a date"
    if question.startswith("how many") and not re.search(COUNT, answer):
        return "the question asks for a number"
    if question.startswith(("who ", "where ")) and re.fullmatch(r"[\d\W]+", answer):
        return "the question asks for a name"
    return ""


def judge_paraphrase(document: str, paraphrase: str) -> str:
    """Why a paraphrase is bad; empty for one that keeps every number and name and adds none."""
    if not paraphrase.strip():
        return "there is no paraphrase"
    if numerals(document) != numerals(paraphrase) and (
        set(numerals(document)) != set(numerals(paraphrase))
    ):
        return "the numbers differ"
    missing = _names(document) - capitals(paraphrase)
    if missing:
        return "names are missing"
    if {word for word in _names(paraphrase) if word.lower() not in document.lower()}:
        return "there are names that the document does not have"
    before, after = document.split(), paraphrase.split()
    if not 0.5 <= len(after) / max(1, len(before)) <= 2.0:
        return "the length is another"
    if before == after:
        return "nothing was changed"
    return ""


def _names(text: str) -> set[str]:
    """Capitalised words that do not merely begin a sentence."""
    inner = (sentence.split(" ", 1)[1:] for sentence in split_sentences(text))
    return {word for rest in inner for word in capitals(" ".join(rest)) if len(word) > 1}
