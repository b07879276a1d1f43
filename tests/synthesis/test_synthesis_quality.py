"""What is accepted, by rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclara.config import QualityConfig
from openclara.data.facts import numbers
from openclara.synthesis.quality import (
    agree,
    answer_fault,
    copied,
    facts,
    in_one_sentence,
    in_order,
    paraphrase_fault,
    question_fault,
    same_question,
    uncovered,
)

RULES = QualityConfig()
TEXT = (
    "The Sydney Opera House was designed by Jørn Utzon. It opened on 20 October 1973 and cost "
    "102,000,000 dollars. Boats leave for Manly, Cremorne and Mosman. Entry costs 3.5 dollars."
)


@pytest.mark.parametrize(
    "answer",
    [
        "Jørn Utzon",
        "jørn utzon.",
        "20 October 1973",
        "October 20, 1973",
        "102000000 dollars",
        "Manly, Cremorne and Mosman",
        "Mosman and Manly",
        "the Sydney Opera House",
    ],
)
def test_an_answer_that_stands_in_the_document_is_found(answer):
    assert answer_fault("Which one was it then?", answer, TEXT, RULES) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no answer in the document"),
        ("…", "no answer in the document"),
        ("Frank Gehry", "answer not in the document"),
        ("Utzon Jørn", "answer not in the document"),
        ("1974", "number not in the document"),
        ("5 dollars", "number not in the document"),
        ("21 October 1973", "number not in the document"),
        ("102,000 dollars", "number not in the document"),
        ("Manly, Bondi and Mosman", "answer not in the document"),
        (" ".join(["Manly"] * 31), "answer too long"),
    ],
)
def test_an_answer_that_does_not_is_rejected_with_its_reason(answer, reason):
    assert answer_fault("Which one was it then?", answer, TEXT, RULES) == reason


def test_a_question_that_holds_its_answer_needs_a_choice():
    answer = "Manly"
    given_away = "Do boats leave for Manly from there?"
    assert answer_fault(given_away, answer, TEXT, RULES) == "question gives its answer away"
    assert answer_fault("Which do boats reach, Manly or Bondi?", answer, TEXT, RULES) is None


def test_questions_that_point_at_their_text_cannot_be_asked_of_a_corpus():
    for question in (
        "According to the passage, who designed it?",
        "What is mentioned in the text about boats?",
        "Who is the architect described by this document?",
    ):
        assert question_fault(question) == "question points at its text"
    assert question_fault("Who wrote the text of the national anthem?") is None
    assert question_fault("Who?") == "question too short"


def test_questions_are_the_same_by_their_words_but_not_across_numbers_or_asking_words():
    question = "Who designed the Sydney Opera House?"
    assert same_question(question, "Who designed the opera house of Sydney?", 0.8)
    assert not same_question(question, "When was the Sydney Opera House designed?", 0.8)
    assert not same_question("Who won in 1973?", "Who won in 1974?", 0.1)


@given(st.text(max_size=80), st.text(max_size=80))
def test_sameness_of_questions_is_symmetric_and_reflexive(a, b):
    assert same_question(a, a, 0.8)
    assert same_question(a, b, 0.8) == same_question(b, a, 0.8)


@given(st.text(max_size=200), st.text(max_size=60))
def test_no_answer_passes_with_a_number_of_its_own(document, answer):
    if answer_fault("Which one was it then?", answer, document, RULES) is None:
        assert set(numbers(answer)) <= set(numbers(document))


def test_agreement_is_strict_with_numbers_and_lenient_with_words():
    assert agree("Jørn Utzon", "the architect Jørn Utzon", 0.6)
    assert not agree("Jørn Utzon", "Frank Gehry", 0.6)
    assert not agree("about 20 boats", "about 21 boats", 0.5)
    assert agree("1,000 boats", "1000 boats", 0.9)


def test_facts_are_covered_by_question_or_answer():
    found = facts(TEXT)
    assert {"1973-10-20", "102000000", "3.5", "Sydney Opera House", "Manly"} <= set(found)
    left = uncovered(found, ["Who designed the Sydney Opera House?\nJørn Utzon", "When?\n1973"])
    assert not {"Sydney Opera House", "Jørn Utzon", "1973"} & set(left)
    assert {"1973-10-20", "Manly"} <= set(left)


def test_a_question_that_one_sentence_answers_is_not_complex():
    assert in_one_sentence("Who designed the Sydney Opera House?", "Jørn Utzon", TEXT)
    assert not in_one_sentence("When did what Utzon designed open?", "20 October 1973", TEXT)


GOOD = (
    "Jørn Utzon is behind the design of what is called the Sydney Opera House, whose doors first "
    "stood open on 20 October 1973 at a price of 102,000,000 dollars. From there Manly, Cremorne "
    "and Mosman are served by boats, and visitors pay 3.5 dollars."
)


def test_a_paraphrase_that_keeps_all_facts_in_another_form_is_accepted():
    assert paraphrase_fault(GOOD, TEXT, RULES) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" ", "paraphrase empty"),
        (GOOD.replace("20 October 1973", "October 1973"), "paraphrase loses a number"),
        (GOOD.replace("Cremorne", "others"), "paraphrase loses a name"),
        (GOOD + " All 1,500 seats were sold.", "paraphrase adds a number"),
        (GOOD + " It was opened by Queen Elizabeth herself.", "paraphrase adds a name"),
        (TEXT, "paraphrase copies the form"),
        (GOOD + 40 * " and visitors were glad", "paraphrase of another length"),
    ],
)
def test_a_paraphrase_that_does_not_is_rejected_with_its_reason(text, reason):
    assert paraphrase_fault(text, TEXT, RULES) == reason


@given(st.text(max_size=100))
def test_a_text_copies_itself_entirely(text):
    assert copied(text, text) == 1.0


def test_the_same_sentences_in_another_order_are_another_form():
    first, second, third, last = (f"{part}." for part in TEXT.removesuffix(".").split(". "))
    assert paraphrase_fault(" ".join([last, third, second, first]), TEXT, RULES) is None
    strict = RULES.model_copy(update={"max_in_order": 0.05})
    moved = paraphrase_fault(" ".join([last, third, second, first]), TEXT, strict)
    assert moved == "paraphrase copies the form"


@given(st.lists(st.sampled_from("abcdefg"), max_size=14), st.permutations("abcdefg"))
def test_runs_in_order_are_the_longest_rising_sequence(words, document):
    text, source = " ".join(words), " ".join(document)
    runs = [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
    theirs = [tuple(document[at : at + 4]) for at in range(len(document) - 3)]
    places = [theirs.index(run) for run in runs if run in theirs]
    longest = [0] * len(places)
    for at, place in enumerate(places):
        before = [longest[b] for b in range(at) if places[b] < place]
        longest[at] = 1 + max(before, default=0)
    expected = max(longest, default=0) / len(runs) if runs else 1.0
    assert in_order(text, source) == expected
