"""JSON out of what models write, and replies out of JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openclara.synthesis.teachers.extraction import extract_json
from openclara.synthesis.teachers.reading import clean_questions, read_reply

VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-99, 99), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(min_size=1, max_size=8), VALUES, min_size=1, max_size=4)
CHATTER = st.text(
    st.characters(exclude_characters="{}[]`<", exclude_categories=["Cs"]), max_size=40
)


@example({"0": [False, "```"]}, "", "", "```json\n", False)
@given(OBJECTS, CHATTER, CHATTER, st.sampled_from(["", "```json\n", "```\n"]), st.booleans())
def test_an_object_is_found_whatever_stands_around_it(
    found, before, after, fence, indented
) -> None:
    written = json.dumps(found, indent=2 if indented else None)
    closing = "\n```" if fence else ""
    assert extract_json(f"{before}\n{fence}{written}{closing}\n{after}") == found


@given(st.text())
def test_any_text_gives_json_or_none(text: str) -> None:
    found = extract_json(text)
    assert found is None or isinstance(found, dict | list)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5), st.data())
def test_a_list_that_was_cut_off_gives_its_whole_items(items: list[str], data) -> None:
    written = json.dumps({"questions": items})
    end = data.draw(st.integers(len('{"questions": ['), len(written)))
    found = extract_json(written[:end])
    kept = found["questions"] if found else []
    assert kept == items[: len(kept)]
    if end == len(written):
        assert kept == items


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": [1, 2,],}', {"a": [1, 2]}),
        ('{"a": "one\ntwo"}', {"a": "one\ntwo"}),
        ('<think>maybe {"a": 1}</think>{"a": 2}', {"a": 2}),
        ('as in [1], the reply is {"a": 3}', {"a": 3}),
        ('["one?", "two?"]', ["one?", "two?"]),
        ("[]", []),
        ("no JSON here", None),
        ("{'a': 1}", None),
        ('{"a": "x, ]"}', {"a": "x, ]"}),
    ],
)
def test_known_habits_of_models_are_understood(text: str, expected) -> None:
    assert extract_json(text) == expected


def test_nothing_but_brackets_comes_to_an_end() -> None:
    for text in ("[" * 50_000, "{" * 50_000, '{"a":' * 20_000, '["' * 20_000, "[1," * 20_000):
        extract_json(text)


@pytest.mark.parametrize(
    ("kind", "text", "field", "expected"),
    [
        (
            "simple_qa",
            '{"questions": [{"question": "Who is Ada?"}]}',
            "questions",
            ("Who is Ada?",),
        ),
        ("simple_qa", '["Who is Ada?", "Who is Ada?"]', "questions", ("Who is Ada?",)),
        (
            "simple_qa",
            "1. Who is Ada?\n2) **When was it?**",
            "questions",
            ("Who is Ada?", "When was it?"),
        ),
        ("complex_qa", '{"questions": []}', "questions", ()),
        ("answer", '{"answer": "  Oslo "}', "text", "Oslo"),
        ("answer", '{"answer": 1048}', "text", "1048"),
        ("answer", "Answer: Oslo", "text", "Oslo"),
        ("answer", "The document does not contain this information.", "text", ""),
        ("answer", '{"answer": ""}', "text", ""),
        ("judge_pair", '{"accept": true, "reason": "x"}', "verdict", True),
        ("judge_pair", '{"verdict": "no", "reason": "x"}', "verdict", False),
        ("judge_paraphrase", "Yes, it does.", "verdict", True),
        ("judge_paraphrase", "No.", "verdict", False),
        ("paraphrase", '{"paraphrase": "Said again."}', "text", "Said again."),
        ("paraphrase", '{"text": "Said again."}', "text", "Said again."),
    ],
)
def test_replies_are_read_in_all_their_forms(kind, text, field, expected) -> None:
    assert getattr(read_reply(kind, text), field) == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("simple_qa", "I cannot do that."),
        ("simple_qa", '{"questions": "none"}'),
        ("simple_qa", '{"questions": ["no question"]}'),
        ("judge_pair", "Perhaps."),
        ("judge_pair", '{"accept": null}'),
        ("paraphrase", '{"paraphrase": ""}'),
        ("paraphrase", ""),
        ("paraphrase", "{broken"),
    ],
)
def test_what_holds_nothing_usable_is_no_reply(kind: str, text: str) -> None:
    assert read_reply(kind, text) is None


@given(st.lists(st.text(max_size=60), max_size=8))
def test_clean_questions_are_questions_and_no_two_alike(lines: list[str]) -> None:
    questions = clean_questions(lines)
    assert all(one.endswith(("?", "？", "؟")) for one in questions)
    assert len({one.casefold() for one in questions}) == len(questions)
