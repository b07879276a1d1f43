"""Answers that end at stops, and one model asked by many threads."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

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


def test_threads_are_in_the_model_one_at_a_time_and_get_their_own_answers(
    tiny_model, tiny_index, monkeypatch
):
    # With packed weights the roles are adapters, switched in place: two at once would mix them.
    clara = Clara.load(str(tiny_model), precision="int8")
    use, inside, together = clara.model.roles.use, [], []

    @contextmanager
    def watched(role):
        with use(role) as lm:
            inside.append(role)
            together.append(len(inside))
            yield lm
            inside.pop()

    def ask(question):
        decoding = Decoding(max_new_tokens=12)
        return turns.stream(clara, tiny_index, question, k=2, decoding=decoding).finished().text

    questions = [QUESTION, "Where is the river?", "When?", "What stands beside the river?"]
    alone = [ask(question) for question in questions]
    monkeypatch.setattr(clara.model.roles, "use", watched)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, questions * 2)) == alone * 2
    finally:
        sys.setswitchinterval(interval)
    assert set(together) == {1}
