from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openclara.evaluation.metrics import (
    RESAMPLES,
    AnswerScores,
    Interval,
    answer_supported,
    best,
    cover_match,
    exact_match,
    f1,
    interval,
    macro_interval,
    normalise,
    paired_interval,
    published_scores,
    scores,
    token_f1,
)

# Few words, so that predictions and answers share some.
FRAGMENTS = "the The a paris Paris, london. yes No noanswer True False 1998 of é"
WORDS = st.sampled_from(FRAGMENTS.split())
TEXTS = st.lists(WORDS, max_size=6).map(" ".join) | st.text(max_size=12)
ANSWERS = st.lists(TEXTS, min_size=1, max_size=4)
VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat, a dog  and an OWL!", "cat dog and owl"),
        ("theatre another", "theatre another"),
        ("U.S.A.", "usa"),
        ("state-of-the-art", "stateoftheart"),
        ("  \n\t", ""),
        ("the", ""),
        ("“Naïve”", "“naïve”"),
    ],
)
def test_normalising_by_the_rules_of_squad(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("The Eiffel Tower", "eiffel tower.", AnswerScores(1, 1, 1)),
        ("It is the Eiffel Tower", "Eiffel Tower", AnswerScores(0, 2 * 2 / (4 + 2), 1)),
        ("Tower Eiffel", "Eiffel Tower", AnswerScores(0, 1, 1)),
        # Multiplicity counts for F1, and does not for the cover.
        ("new", "New New York", AnswerScores(0, 2 * 1 / (1 + 3), 0)),
        ("new york", "New New York", AnswerScores(0, 2 * 2 / (2 + 3), 1)),
        ("Paris", "London", AnswerScores(0, 0, 0)),
        ("", "London", AnswerScores(0, 0, 0)),
        ("", "", AnswerScores(1, 1, 1)),
        ("London", "the", AnswerScores(0, 0, 1)),
        ("yes, it is", "yes", AnswerScores(0, 2 * 1 / (3 + 1), 1)),
        ("True", "yes", AnswerScores(0, 0, 0)),
    ],
)
def test_scores_against_one_answer(prediction, answer, expected):
    assert scores(prediction, [answer]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("The Eiffel Tower", "eiffel tower.", AnswerScores(1, 1, 1)),
        ("It is the Eiffel Tower", "Eiffel Tower", AnswerScores(0, 2 * 2 / (4 + 2), 1)),
        ("True", "yes", AnswerScores(1, 1, 1)),
        ("no", "False", AnswerScores(1, 1, 1)),
        ("True", "False", AnswerScores(0, 0, 0)),
        # The mapping holds for these exact texts alone.
        ("true", "yes", AnswerScores(0, 0, 0)),
        ("True.", "yes", AnswerScores(0, 0, 0)),
        ("yes, it is", "yes", AnswerScores(0, 0, 1)),
        ("Yes.", "yes", AnswerScores(1, 1, 1)),
        ("no answer", "noanswer", AnswerScores(0, 0, 0)),
        ("noanswer", "no answer", AnswerScores(0, 0, 0)),
        ("London", "the", AnswerScores(0, 0, 1)),
        ("", "", AnswerScores(1, 0, 1)),
        ("", "London", AnswerScores(0, 0, 0)),
    ],
)
def test_published_scores(prediction, answer, expected):
    assert published_scores(prediction, [answer]) == pytest.approx(expected)


def test_only_the_first_answer_counts_as_published():
    assert published_scores("Paris", ["London", "Paris"]) == (0, 0, 0)
    assert scores("Paris", ["London", "Paris"]) == (1, 1, 1)


def test_each_metric_chooses_its_own_alias():
    answers = ["New York", "the", "the city of New York"]
    assert scores("New York City", answers) == pytest.approx((0, 2 * 3 / (3 + 4), 1))


@pytest.mark.parametrize("score", [scores, published_scores])
def test_a_question_without_answers_is_refused(score):
    with pytest.raises(ValueError, match="accepted answer"):
        score("Paris", [])


@given(TEXTS, ANSWERS)
def test_scores_are_bounded_and_a_match_is_a_full_score(prediction, answers):
    for score in (scores, published_scores):
        result = score(prediction, answers)
        assert all(0 <= value <= 1 for value in result)
        assert result.cover >= result.exact
    result = scores(prediction, answers)
    assert result.f1 >= result.exact
    assert scores(prediction, [*answers, prediction]) == (1, 1, 1)


@given(TEXTS, ANSWERS, TEXTS)
def test_another_alias_never_lowers_a_score(prediction, answers, alias):
    before, after = scores(prediction, answers), scores(prediction, [*answers, alias])
    assert all(more >= less for more, less in zip(after, before, strict=True))
    passages = [prediction]
    assert answer_supported([*answers, alias], passages) >= answer_supported(answers, passages)


@given(TEXTS, ANSWERS)
def test_best_scores_are_the_metrics_over_aliases(prediction, answers):
    expected = [best(metric, prediction, answers) for metric in (exact_match, f1, cover_match)]
    assert list(scores(prediction, answers)) == expected


@given(TEXTS, TEXTS)
def test_published_scores_never_exceed_those_by_squad_but_for_booleans(prediction, answer):
    if {prediction, answer} & {"True", "False"}:
        return
    published, ours = published_scores(prediction, [answer]), scores(prediction, [answer])
    assert (published.exact, published.cover) == (ours.exact, ours.cover)
    assert published.f1 in (0, ours.f1)


@given(st.lists(WORDS), st.lists(WORDS))
def test_token_f1_is_the_harmonic_mean_of_precision_and_recall(predicted, expected):
    left = list(expected)
    shared = 0
    for token in predicted:
        if token in left:
            left.remove(token)
            shared += 1
    if shared:
        precision, recall = shared / len(predicted), shared / len(expected)
        harmonic = 2 * precision * recall / (precision + recall)
    else:
        harmonic = float(predicted == expected)
    assert token_f1(predicted, expected) == pytest.approx(harmonic)


@pytest.mark.parametrize(
    ("answers", "passages", "expected"),
    [
        (["Eiffel Tower"], ["He saw the Eiffel-Tower.", "The eiffel, tower is high."], 1),
        (["the Eiffel Tower"], ["An Eiffel tower."], 1),
        (["art"], ["The party started."], 0),
        (["Eiffel Tower"], ["The tower of Eiffel."], 0),
        (["Eiffel Tower"], ["It was Eiffel", "Tower of Paris"], 0),
        (["London", "Paris"], ["in paris"], 1),
        (["yes"], ["yes, yes"], 0),
        (["No", "noanswer", "The", ""], ["no noanswer"], 0),
        (["yes", "Paris"], ["Paris"], 1),
        (["Paris"], [], 0),
        ([], ["Paris"], 0),
    ],
)
def test_support_is_the_tokens_of_an_alias_in_one_passage(answers, passages, expected):
    assert answer_supported(answers, passages) == expected


@given(TEXTS, TEXTS, TEXTS)
def test_an_answer_inside_a_passage_supports_it(before, answer, after):
    is_open = normalise(answer) not in ("", "yes", "no", "noanswer")
    assert answer_supported([answer], [f"{before} {answer} {after}"]) == is_open


def test_interval_agrees_with_all_picks_at_once():
    values = np.random.default_rng(5).random(1500).tolist()
    picks = np.random.default_rng(3).integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.array(values)[picks].mean(axis=1), [2.5, 97.5])
    assert interval(values, seed=3) == Interval(np.mean(values), low, high)


def test_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(0).random(2000)
    mean, low, high = interval(values.tolist())
    width = 1.96 * values.std() / np.sqrt(len(values))
    assert (mean - low, high - mean) == pytest.approx((width, width), rel=0.1)


def test_resampling_stays_small():
    values = [0.0, 1.0] * 20_000
    tracemalloc.start()
    try:
        interval(values)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6


@settings(max_examples=20)
@given(VALUES, st.randoms(use_true_random=False))
def test_the_order_of_questions_does_not_change_means(values, shuffle):
    order = list(range(len(values)))
    shuffle.shuffle(order)
    shuffled = [values[at] for at in order]
    others = [value / 2 for value in values]
    assert interval(shuffled).mean == pytest.approx(interval(values).mean)
    paired = paired_interval(shuffled, [others[at] for at in order])
    assert paired.mean == pytest.approx(paired_interval(values, others).mean)
    groups = [values, [0.5, 0.25]]
    assert macro_interval([shuffled, [0.25, 0.5]]).mean == pytest.approx(
        macro_interval(groups).mean
    )
    for result in (interval(values), macro_interval(groups)):
        assert -1e-12 <= result.low <= result.high <= 1 + 1e-12


@settings(max_examples=20)
@given(VALUES)
def test_identical_systems_differ_by_exactly_nothing(values):
    assert paired_interval(values, list(values)) == (0, 0, 0)


def test_a_paired_interval_is_that_of_the_differences():
    draw = random.Random(0)
    a, b = ([draw.random() for _ in range(200)] for _ in range(2))
    differences = [one - other for one, other in zip(a, b, strict=True)]
    assert paired_interval(a, b, seed=4) == interval(differences, seed=4)
    there, back = paired_interval(a, b), paired_interval(b, a)
    assert there == pytest.approx((-back.mean, -back.high, -back.low))


def test_pairing_sees_a_small_constant_difference():
    values = np.random.default_rng(0).random(100).tolist()
    better = [value + 0.01 for value in values]
    assert paired_interval(better, values) == pytest.approx((0.01, 0.01, 0.01))


def test_unequal_systems_cannot_be_paired():
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired_interval([1.0, 0.0], [1.0])


def test_groups_count_alike_whatever_their_sizes():
    assert macro_interval([[1.0] * 100, [0.0]]) == (0.5, 0.5, 0.5)


def test_one_group_is_a_plain_interval():
    values = np.random.default_rng(1).random(50).tolist()
    assert macro_interval([values], seed=2) == interval(values, seed=2)


def test_a_macro_interval_resamples_within_groups():
    draw = np.random.default_rng(0)
    groups = [draw.normal(centre, 1, size).tolist() for centre, size in ((0, 400), (50, 1600))]
    mean, low, high = macro_interval(groups)
    # The variance of a mean of independent means; the distance of the groups adds nothing to it.
    width = 1.96 * np.sqrt(sum(np.var(group) / len(group) for group in groups)) / 2
    assert mean == pytest.approx(np.mean([np.mean(group) for group in groups]))
    assert (mean - low, high - mean) == pytest.approx((width, width), rel=0.1)


def test_intervals_follow_their_seed():
    values = np.random.default_rng(1).random(50).tolist()
    assert macro_interval([values, values], seed=1) == macro_interval([values, values], seed=1)
    assert macro_interval([values, values], seed=1) != macro_interval([values, values], seed=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: interval([]),
        lambda: paired_interval([], []),
        lambda: macro_interval([]),
        lambda: macro_interval([[1.0], []]),
    ],
)
def test_nothing_has_no_interval(make):
    with pytest.raises(ValueError, match="at least one"):
        make()
