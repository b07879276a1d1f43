from __future__ import annotations

import string
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclara.evaluation.fidelity import (
    FidelityScores,
    entities,
    fidelity,
    numbers,
    preserved,
    rouge_1,
    rouge_l,
)

FRAGMENTS = """
The Paris of de van the U.S. I.B.M. Obama's O’Neill J. R. Dr. & running Running yes It don't I'm
Jean-Luc AT&T COVID-19 1,234.50 -5 −3 12% 12 percent 1990s 12:30 1.2.3 .5 007 2001–05 March 3
12, 1998 2020-02-29 4th . , ! ? : “ ” " ( ) é École 5km
"""
PIECES = st.sampled_from([*FRAGMENTS.split(), "\n"])
PROSE = st.lists(PIECES, max_size=25).map(" ".join)
WORDS = st.lists(st.sampled_from("abcd"), max_size=9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no digits, two words", []),
        ("1,234,567 or 1'234'567 or 1\u202f234\u202f567", ["1234567"]),
        ("12,34 and 1,2345", ["12", "34", "1", "2345"]),
        ("in 1998, 200 came", ["1998", "200"]),
        ("3.50 is 3.5, 2.0 is 2", ["3.5", "2"]),
        (".5 and 0.5", ["0.5"]),
        ("The end is 5.", ["5"]),
        ("12 %, 12.0%, 12 percent and 12 per cent", ["12%"]),
        ("10–12%", ["10", "12%"]),
        ("10%-12%, (a)-5", ["10%", "12%", "5"]),
        ("1998–2001, 1998-2001", ["1998", "2001"]),
        ("from -5 to −5.0 (-7)", ["-5", "-7"]),
        ("the 1990s and the 1990's", ["1990s"]),
        ("the 21st century, 5km, a 3rd", ["21", "5", "3"]),
        ("COVID-19, H2O, B52", ["19"]),
        ("version 1.2.10 at 9:05", ["1.2.10", "9:05"]),
        ("agent 007", ["007"]),
        ("12 March 1998", ["1998-03-12", "1998"]),
        ("the 12th of march, 1998", ["1998-03-12", "1998"]),
        ("March 12, 1998; Mar. 12 1998; 1998-03-12", ["1998-03-12", "1998"]),
        ("Sept 1st, 2020", ["2020-09-01", "2020"]),
        ("45 March 1998", ["45", "1998"]),
        ("March 1998 and 12 March", ["1998", "12"]),
        ("12/03/1998", ["12", "03", "1998"]),
        ("1998-13-45", ["1998", "13", "45"]),
        ("3 on 12 March 1998 4", ["1998-03-12", "1998", "3", "4"]),
        ("$5 million", ["5"]),
    ],
)
def test_numbers_have_one_form(text, expected):
    assert numbers(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing here", []),
        ("He saw Paris.", ["Paris"]),
        ("Paris is nice.", ["Paris"]),
        ("Because of it. However, it rained. It's so. Don't go.", []),
        ("Researchers met. Some researchers left.", []),
        ("Researchers met. Some researchers met Researchers.", ["Researchers"]),
        ("The University of Oxford", ["University of Oxford"]),
        ("a Duke of the Highlands gave Mary the Bible", ["Duke of the Highlands", "Mary", "Bible"]),
        (
            "by Ludwig van Beethoven and Charles de Gaulle",
            ["Ludwig van Beethoven", "Charles de Gaulle"],
        ),
        ("the city of Paris of old", ["Paris"]),
        ("In Paris, France", ["Paris", "France"]),
        ("In the Netherlands", ["Netherlands"]),
        ("they play The Who often", ["The Who"]),
        ("I saw J. R. R. Tolkien. He wrote.", ["J. R. R. Tolkien"]),
        ("The U.S. Senate and I.B.M. met", ["U.S. Senate", "I.B.M"]),
        ("I.B.M. met", ["I.B.M"]),
        ("with Dr. Anthony Fauci of AT&T", ["Dr. Anthony Fauci of AT&T"]),
        ("by Simon & Schuster", ["Simon & Schuster"]),
        ("by J. I. Packer", ["J. I. Packer"]),
        ("a vitamin C. The end", []),
        ("The Wall fell near a wall.", ["Wall"]),
        ("Barack Obama's White House", ["Barack Obama", "White House"]),
        ("Jean-Luc O’Neill’s", ["Jean-Luc O’Neill"]),
        ("on 12 March 1998 in March", ["March"]),
        ("from 12 March 1998 Paris", ["Paris"]),
        ("Paris\nParis is a city", ["Paris"]),
        ("he said: Running helps, running", []),
        ("he said “Running helps”, running", []),
        ("École Normale in Zürich", ["École Normale", "Zürich"]),
        ("the iPhone of eBay", []),
    ],
)
def test_names_by_rule(text, expected):
    assert entities(text) == expected


@pytest.mark.parametrize(
    ("items", "text", "expected"),
    [
        ([], "anything", None),
        (["3.5"], "35 and 3.50", 1),
        (["3.5"], "35", 0),
        (["12"], "12%", 0),
        (["12%"], "12 per cent of 12", 1),
        (["1234"], "1,234 people", 1),
        (["1998-03-12", "1998"], "in 1998", 1 / 2),
        (["1998-03-12", "1998"], "March 12, 1998", 1),
        (["Paris", "London"], "PARIS", 1 / 2),
        (["Paris"], "a parisian", 0),
        (["U.S. Senate"], "the US Senate", 1),
        (["J. R. R. Tolkien"], "J R R Tolkien’s", 1),
        (["Barack Obama"], "Obama, Barack", 0),
        (["Obama"], "Obama's", 1),
        (["3D printing"], "of 3D-printing", 1),
    ],
)
def test_preserved(items, text, expected):
    assert preserved(items, text) == expected


@given(PROSE)
def test_a_text_preserves_itself(text):
    scores = fidelity(text, text)
    assert scores[:2] == (1, 1)
    assert scores.numbers in (None, 1)
    assert scores.entities in (None, 1)
    assert (scores.numbers is None) == (not numbers(text))
    assert (scores.entities is None) == (not entities(text))


@given(PROSE | st.text(max_size=60))
def test_every_number_is_read_again_as_itself(text):
    for item in numbers(text):
        assert item in numbers(item)
        assert set(item) <= set(string.digits + "-.:%s")


@given(PROSE | st.text(max_size=40), PROSE | st.text(max_size=40))
def test_scores_are_bounded(source, rewritten):
    assert all(score is None or 0 <= score <= 1 for score in fidelity(source, rewritten))


@given(PROSE, PROSE)
def test_more_text_preserves_no_less(source, addition):
    items = ["Paris", "19", "12%", "O’Neill", *numbers(source)]
    # A line of its own: a number at its start must not join what stands before.
    assert preserved(items, f"{source}\n;\n{addition}") >= preserved(items, source)


def test_fidelity_by_hand():
    source = "The Eiffel Tower opened on 31 March 1889 in Paris. It is 330 m high."
    rewritten = "The Eiffel Tower, 330 m high, opened in 1889."
    scores = fidelity(source, rewritten)
    assert scores == pytest.approx(
        FidelityScores(
            # 15 and 9 words, all 9 shared; in order "the eiffel tower 330 m high".
            rouge_1=2 * 9 / (15 + 9),
            rouge_l=2 * 6 / (15 + 9),
            numbers=2 / 3,
            entities=1 / 2,
        )
    )


def test_rouge_by_hand():
    # The examples of Lin (2004), section 3.1, with S1 as the reference.
    assert rouge_l("police killed the gunman", "police kill the gunman") == 3 / 4
    assert rouge_l("police killed the gunman", "the gunman kill police") == 2 / 4
    assert rouge_1("police killed the gunman", "the gunman kill police") == 3 / 4
    assert rouge_1("Well-known, it’s", "well known it s") == 1
    assert rouge_1("a a b", "a c") == 2 / 5


def test_rouge_without_words():
    assert (rouge_1("", "..."), rouge_l("", "...")) == (1, 1)
    assert (rouge_1("a", ""), rouge_l("", "a")) == (0, 0)


@given(WORDS, WORDS)
def test_rouge_l_agrees_with_the_recursion(a, b):
    @cache
    def common(i, j):
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    score, single = rouge_l(" ".join(a), " ".join(b)), rouge_1(" ".join(a), " ".join(b))
    assert score == (2 * common(0, 0) / (len(a) + len(b)) if a or b else 1)
    assert score <= single
    assert score == rouge_l(" ".join(b), " ".join(a))
