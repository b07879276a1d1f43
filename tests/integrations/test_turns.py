"""Answers that end at stops, and one model asked by many threads."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_index import QUESTION

from openclara import Clara
from openclara.integrations import turns
from openclara.model.generator import Decoding
from openclara.types import Answer, Usage

TEXT = st.text(alphabet="ab \n", max_size=4)


@dataclass
class Written:
    """An answer that is already there, as a stream gives it out."""

    pieces: list[str]
    hits: tuple = ()

    @property
    def answer(self):
        return Answer("?", "".join(self.pieces), usage=Usage(completion_tokens=len(self.pieces)))

    def __iter__(self):
        return iter(self.pieces)


def letter_by_letter(text, stops):
    """What stands before the stop that is whole first."""
    for end in range(1, len(text) + 1):
        ends = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ends:
            return text[: end - max(map(len, ends))]
    return text


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=3))
@example(["aa", "aa"], ["aaaa"])
def test_an_answer_ends_before_the_first_stop_however_it_comes_in_pieces(pieces, stops):
    answered = turns.Turns(Written(pieces), threading.Lock(), stops, most=100)
    shown = list(answered)
    whole = "".join(pieces).lstrip()
    cut = letter_by_letter(whole, stops)
    assert "".join(shown) == answered.answer.text == cut.rstrip()
    assert all(shown)
    assert answered.finish_reason == "stop"


def test_what_cannot_be_a_stop_is_given_out_at_once():
    answered = turns.Turns(Written(["so far", " so", " good"]), threading.Lock(), [], most=3)
    assert next(iter(answered)) == "so far"
    assert answered.answer.text == "so far"
    assert answered.finished().text == "so far so good"
    assert answered.finish_reason == "length"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_threads_get_the_answers_they_would_get_alone(tiny_model, tiny_index, precision):
    # With packed weights the roles are adapters that are switched in place.
    clara = Clara.load(str(tiny_model), precision=precision)
    questions = [QUESTION, "Where is the river?", "When?", "What stands beside the river?"]

    def ask(question):
        asked = turns.stream(clara, tiny_index, question, k=2, decoding=Decoding(max_new_tokens=12))
        return asked.finished().text

    alone = [ask(question) for question in questions]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(ask, questions * 3))
    finally:
        sys.setswitchinterval(interval)
    assert together == alone * 3
