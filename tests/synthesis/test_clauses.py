"""Questions that the rules make of explaining prose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclara.synthesis.tasks import Task
from openclara.synthesis.teachers.rules.clauses import ask_for_clauses
from openclara.synthesis.teachers.rules.documents import read_document
from openclara.synthesis.teachers.rules.teacher import carry_out


def asked(text: str, title: str = "example.org") -> dict[str, str]:
    return {one.question: one.answer for one in ask_for_clauses(read_document(text, title))}


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (
            "We may collect the position of a device when the device is set to report it.",
            "When may example.org collect the position of a device?",
            "when the device is set to report it",
        ),
        (
            "If you delete your account, we will remove the pictures in it within thirty days.",
            "What happens if you delete your account (example.org)?",
            "we will remove the pictures in it within thirty days",
        ),
        (
            "You can leave the list by clicking the last line of a letter.",
            "How can you leave the list (example.org)?",
            "by clicking the last line of a letter",
        ),
        (
            "We use cookies and web beacons to count the visitors of each page.",
            "Why does example.org use cookies and web beacons?",
            "to count the visitors of each page",
        ),
        (
            "We may share the address of a buyer with the company that delivers a parcel.",
            "With whom may example.org share the address of a buyer?",
            "the company that delivers a parcel",
        ),
        (
            "The pump must stop because the valve is closed during the night.",
            "Why must the pump stop (example.org)?",
            "because the valve is closed during the night",
        ),
        (
            "Visitors are asked for personal details such as a name and an age.",
            "What are examples of personal details (example.org)?",
            "a name and an age",
        ),
    ],
)
def test_conditions_reasons_means_purposes_partners_and_examples_are_asked_for(
    text, question, answer
):
    assert asked(text).get(question) == answer


@pytest.mark.parametrize(
    "text",
    [
        "They may collect it when this is set to do so for them again.",
        "We will not share your address with anybody unless the law demands it.",
        "Individuals may be prone to respiratory infections during their whole life.",
        '"If you wish, we will call you back today," said the clerk in the office.',
    ],
)
def test_what_points_elsewhere_denies_or_quotes_is_left_alone(text):
    assert asked(text) == {}


def test_the_teacher_stands_by_its_own_clauses():
    text = "We may collect the position of a device when the device is set to report it."
    questions = carry_out(Task("simple_qa", text, "example.org")).questions
    assert any(question.startswith("When may") for question in questions)
    for question in questions:
        answer = carry_out(Task("answer", text, "example.org", question=question)).text
        judged = Task("judge_pair", text, "example.org", question=question, answer=answer)
        assert carry_out(judged).verdict, (question, answer)


WORDS = [
    "we",
    "you",
    "the",
    "a",
    "may",
    "can",
    "will",
    "not",
    "if",
    "when",
    "because",
    "to",
    "by",
    "with",
    "share",
    "use",
    "data",
    "such",
    "as",
    ",",
    "and",
]


@given(st.lists(st.sampled_from(WORDS), min_size=5, max_size=30))
def test_answers_stand_in_their_sentence(words):
    text = f"{' '.join(words).replace(' ,', ',').capitalize()}."
    for answer in asked(text).values():
        assert answer.lower() in text.lower()
