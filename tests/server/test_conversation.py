"""What a conversation searches for and what it asks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openclara.server.openai.bodies import Message
from openclara.server.openai.conversation import asked, with_earlier

TALK = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="Who designed the Sydney Opera House?"),
    Message(role="assistant", content="Jørn Utzon."),
    Message(role="user", content="When was it opened?"),
]


def test_the_last_question_is_asked_as_it_stands():
    one = asked(TALK, "last")
    assert one.text == "When was it opened?"
    assert one.prompt == "Be brief.\n\nWhen was it opened?"


def test_a_pronoun_brings_names_of_earlier_turns_into_the_search():
    one = asked(TALK, "conversation")
    assert one.text.startswith("When was it opened? ")
    assert {"Jørn", "Utzon", "Sydney", "Opera", "House"} <= set(one.text.split())
    assert one.prompt == "Be brief.\n\nWhen was it opened?"


def test_a_short_question_is_completed_and_one_that_stands_by_itself_is_not():
    earlier = ["Who designed the Sydney Opera House?"]
    assert "Sydney" in with_earlier("And in 1973?", earlier)
    alone = "Who designed the railway station of York?"
    assert with_earlier(alone, earlier) == alone


def test_without_earlier_turns_nothing_is_added():
    assert with_earlier("When was it opened?", []) == "When was it opened?"


@given(st.text(max_size=60), st.lists(st.text(max_size=80), max_size=10))
def test_a_question_is_only_ever_added_to(question, earlier):
    text = with_earlier(question, earlier)
    assert text.startswith(question)
    assert len(text.split()) <= len(question.split()) + 12 * 80


def test_messages_after_the_question_do_not_change_it():
    assert asked([*TALK, Message(role="assistant", content="In 1973.")], "last").text == (
        "When was it opened?"
    )
