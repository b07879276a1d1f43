"""Answers of the engine against those of the library, whatever they are written beside."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from engine_cases import QUESTIONS, answer, held, running
from hypothesis import given, settings
from hypothesis import strategies as st

from openclara.errors import ConfigError, DataError, IndexMismatch
from openclara.index import LatentIndex
from openclara.model.generator import Decoding
from openclara.server import worker
from openclara.server.asking import Question
from openclara.server.showing import Shown


def expected(clara, index, question):
    """The library's answer, and whether it ended by itself."""
    decoding = Decoding(
        question.max_new_tokens, question.temperature, question.top_p, question.seed
    )
    hits = []
    if question.context != "none":
        hits, _ = clara._search(
            [question.text], index, k=question.k or clara.card.top_k, mode=question.mode,
            where=question.where, n_memory=question.n_memory,
            with_latents=question.context == "latents",
        )  # fmt: skip
        hits = hits[0]
    asked = question.prompt or question.text
    answering = clara._answering([asked], [hits], question.context, decoding)
    for _ in answering.steps():
        pass
    return answering.text(0), hits, answering.answers()[0].usage


QUESTION = st.builds(
    Question,
    text=st.sampled_from(QUESTIONS),
    prompt=st.sampled_from(["", "", "And where was it?"]),
    k=st.integers(1, 4),
    context=st.sampled_from(["latents", "latents", "text", "none"]),
    mode=st.sampled_from(["hybrid", "latent", "lexical"]),
    where=st.sampled_from([(), ("year=1973",)]),
    n_memory=st.sampled_from([None, 2]),
    max_new_tokens=st.integers(1, 24),
    temperature=st.sampled_from([0.0, 0.0, 1.0]),
    seed=st.integers(0, 3),
)


@given(
    arrivals=st.lists(st.tuples(QUESTION, st.integers(0, 3)), min_size=1, max_size=8),
    max_batch=st.integers(1, 4),
)
@settings(max_examples=15)
def test_answers_are_the_librarys_whatever_comes_beside_them(clara, index, arrivals, max_batch):
    async def ask():
        async with running(clara, max_batch=max_batch) as engine:
            asked = []
            for question, wait_for in arrivals:
                asked.append(asyncio.create_task(answer(engine, question, index)))
                for _ in range(wait_for * 20):
                    await asyncio.sleep(0)
            answers = await asyncio.gather(*asked)
            assert engine.load.answered == len(arrivals)
            assert engine.load.running == engine.load.waiting == 0
            return answers

    for (question, _), got in zip(arrivals, asyncio.run(ask()), strict=True):
        text, hits, usage = expected(clara, index, question)
        assert got.text == text
        assert [(hit.document.id, hit.start) for hit in got.hits] == [
            (hit.document.id, hit.start) for hit in hits
        ]
        full = usage.completion_tokens == question.max_new_tokens
        assert got.reason == ("length" if full else "stop")
        times = ("embed_ms", "search_ms", "first_token_ms", "total_ms")
        assert replace(got.usage, **dict.fromkeys(times, 0.0)) == replace(
            usage, **dict.fromkeys(times, 0.0)
        )
        assert 0 < got.usage.first_token_ms <= got.usage.total_ms
        assert got.usage.embed_ms + got.usage.search_ms <= got.usage.first_token_ms
        assert (got.usage.search_ms > 0) == (question.context != "none")


def test_questions_that_wait_are_embedded_in_one_pass_and_written_in_one_batch(
    clara, index, monkeypatch
):
    passes = []
    reason = clara.reason

    def counted(texts, **options):
        passes.append(len(texts))
        return reason(texts, **options)

    monkeypatch.setattr(clara, "reason", counted)

    async def ask():
        async with running(clara) as engine:
            async with held(engine):
                passes.clear()
                asked = [
                    asyncio.create_task(answer(engine, Question(text, max_new_tokens=9), index))
                    for text in QUESTIONS
                ]
                searched = asyncio.create_task(
                    engine.search("the river", index, k=2, mode="latent", where=())
                )
                await asyncio.sleep(0)
            await asyncio.gather(*asked)
            return await searched, engine.load

    hits, load = asyncio.run(ask())
    assert passes == [4]
    assert load.steps <= 8 < load.tokens <= 27
    alone = clara.search("the river", index, k=2, mode="latent")
    assert [hit.document for hit in hits] == [hit.document for hit in alone]
    # In a batch some processors sum in another order.
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-5)


def test_long_prompts_are_read_one_a_round_and_written_apart(clara, index, monkeypatch):
    monkeypatch.setattr(worker, "LONG_PROMPT", 60)
    monkeypatch.setattr(worker, "PROMPT_POSITIONS", 70)
    monkeypatch.setattr(worker, "LONG_ROWS", 2)
    questions = [
        Question(QUESTIONS[n % 3], context="text" if n % 2 else "none", max_new_tokens=12)
        for n in range(8)
    ]

    async def ask():
        async with running(clara) as engine:
            return await asyncio.gather(*(answer(engine, one, index) for one in questions))

    for question, got in zip(questions, asyncio.run(ask()), strict=True):
        assert got.text == expected(clara, index, question)[0]
        assert (got.usage.prompt_tokens > 60) == (question.context == "text")


BAD = [
    (Question("  "), DataError, "empty"),
    (Question("Who?", where=("year",)), ConfigError, "filter"),
    (Question("Who?", k=0), ConfigError, "k and pool"),
    (Question("Who?", n_memory=99), ConfigError, "n_memory"),
    (Question("Who?", mode="psychic"), ConfigError, "mode"),
    (Question("Who?", context="gossip"), ConfigError, "context"),
    (Question("Who?", max_new_tokens=0), ConfigError, "at least one token"),
    (Question("Who?", max_new_tokens=5000), ConfigError, "reads and writes 2048"),
    (Question("Who?", temperature=float("nan")), ConfigError, "temperature"),
    (Question("Who?", temperature=1.0, seed=2**70), ConfigError, "seed"),
]


@pytest.mark.parametrize(("bad", "error", "words"), BAD)
def test_a_bad_question_is_told_so_and_hurts_no_other(clara, index, bad, error, words):
    async def ask():
        async with running(clara) as engine:
            async with held(engine):
                asked = [
                    asyncio.create_task(answer(engine, question, index))
                    for question in (QUESTIONS[0], bad, QUESTIONS[1])
                ]
                await asyncio.sleep(0)
            return await asyncio.gather(*asked, return_exceptions=True)

    first, refused, second = asyncio.run(ask())
    assert isinstance(refused, error)
    assert words in str(refused)
    for got, text in ((first, QUESTIONS[0]), (second, QUESTIONS[1])):
        assert got.text == expected(clara, index, Question(text))[0]


@pytest.mark.parametrize("temperature", [1e-40, 1e-9, 1e30])
def test_extreme_temperatures_hurt_no_other(clara, index, temperature):
    async def ask():
        async with running(clara) as engine:
            return await asyncio.gather(
                answer(engine, Question(QUESTIONS[0], temperature=temperature), index),
                answer(engine, QUESTIONS[1], index),
            )

    extreme, plain = asyncio.run(ask())
    assert plain.text == expected(clara, index, Question(QUESTIONS[1]))[0]
    if temperature < 1:
        assert extreme.text == expected(clara, index, Question(QUESTIONS[0]))[0]


def test_another_models_index_is_refused(clara, index, tmp_path):
    spec = replace(clara.latent_spec, fingerprint="0" * 64)

    async def ask(other):
        async with running(clara) as engine:
            with pytest.raises(IndexMismatch):
                await answer(engine, QUESTIONS[0], other)
            with pytest.raises(IndexMismatch):
                await engine.search("Who?", other, k=1, mode="hybrid", where=())
            with pytest.raises(IndexMismatch):
                await engine.compress([], other)

    with LatentIndex.open(tmp_path / "other", spec) as other:
        asyncio.run(ask(other))


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(clara, index):
    whole = expected(clara, index, Question(QUESTIONS[0], max_new_tokens=24))[0]
    stops = (whole[at : at + 3] for at in range(3, len(whole) - 3))
    stop = next(stop for stop in stops if "\ufffd" not in stop)
    plain = Question(QUESTIONS[0], max_new_tokens=24)

    async def ask():
        async with running(clara) as engine:
            return await asyncio.gather(
                answer(engine, replace(plain, stop=("never", stop)), index),
                answer(engine, plain, index),
            )

    stopped, going_on = asyncio.run(ask())
    assert stopped.text == whole[: whole.index(stop)]
    assert stopped.reason == "stop"
    assert stopped.usage.completion_tokens < going_on.usage.completion_tokens
    assert going_on.text == whole


@given(
    text=st.text("abcé\U0001f600", max_size=20),
    stop=st.lists(st.text("abcé", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
@settings(max_examples=300)
def test_what_is_shown_does_not_depend_on_how_the_text_is_cut(text, stop, cuts):
    content = text.encode()
    shown, ends = Shown(stop), sorted({min(cut, len(content)) for cut in cuts})
    pieces = [shown.more(content[:end].decode(errors="replace")) for end in ends]
    pieces.append(shown.more(text, complete=True))
    ends = [text.find(one) + len(one) for one in stop if one in text]
    expected = text
    if ends:
        done = [(text.find(one) + len(one), text.find(one)) for one in stop if one in text]
        expected = text[: min(done)[1]]
    assert "".join(pieces) == expected
    assert shown.stopped == bool(ends)


def test_at_the_very_end_half_a_character_is_shown_as_such():
    shown = Shown()
    assert shown.more("a\ufffd") == "a"
    assert shown.more("a\ufffd", complete=True) == "\ufffd"
