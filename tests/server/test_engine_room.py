"""Room and time in the engine: refusals, time limits, callers that leave, closing, failures."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import replace

import pytest
import torch
from engine_cases import DOCUMENTS, QUESTIONS, answer, held, running, until

from openclara.errors import Busy, OpenClaraError, TimedOut
from openclara.index import LatentIndex
from openclara.server.asking import Found, Question
from openclara.server.engine import ClaraEngine
from openclara.types import Document

# Nothing of the tiny model ends by itself soon enough to disturb: it writes until it is stopped.
ENDLESS = Question(QUESTIONS[0], max_new_tokens=1500, temperature=1.5, seed=0, context="none")


@pytest.fixture
def endless(clara, monkeypatch):
    """The model without an end of turn."""
    monkeypatch.setattr(type(clara.tokenizer), "stop_ids", frozenset())


def test_beyond_its_bound_it_is_busy_at_once_and_says_when_to_try_again(clara, index):
    async def ask():
        async with running(clara, max_batch=1, max_waiting=1) as engine:
            async with held(engine):
                asked = [asyncio.create_task(answer(engine, text, index)) for text in QUESTIONS[:2]]
                await asyncio.sleep(0)
                for refused in (
                    answer(engine, QUESTIONS[2], index),
                    engine.search("Who?", index, k=1, mode="hybrid", where=()),
                    engine.embed(["Who?"], "reasoner"),
                ):
                    with pytest.raises(Busy) as busy:
                        await refused
                    assert 0 < busy.value.retry_after_s <= 60
                assert engine.load.waiting == 2
                assert engine.load.refused == 3
            await asyncio.gather(*asked)
            return await answer(engine, QUESTIONS[2], index), engine.load

    got, load = asyncio.run(ask())
    assert got.text
    assert (load.answered, load.cancelled) == (3, 0)


@pytest.mark.usefixtures("endless")
def test_a_question_over_its_time_is_ended_while_it_runs_and_while_it_waits(clara, index):
    async def ask():
        async with running(clara, max_batch=1) as engine:
            runs = asyncio.create_task(answer(engine, replace(ENDLESS, timeout_s=0.2), index))
            await until(lambda: engine.load.tokens)
            waits = asyncio.create_task(answer(engine, Question("Who?", timeout_s=0.01), index))
            for late in (waits, runs):
                with pytest.raises(TimedOut, match="longer than 0"):
                    await late
            await until(lambda: not engine.load.running)
            assert engine.load.cancelled == 2
            return await answer(engine, Question(QUESTIONS[1], max_new_tokens=3), index)

    assert asyncio.run(ask()).usage.completion_tokens == 3


@pytest.mark.usefixtures("endless")
def test_the_engines_own_time_limit_holds_where_a_question_has_none(clara, index):
    async def ask():
        async with running(clara, timeout_s=0.05) as engine:
            with pytest.raises(TimedOut):
                await answer(engine, ENDLESS, index)

    asyncio.run(ask())


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("how", ["close", "break", "cancel"])
def test_who_leaves_frees_the_place_at_the_next_step(clara, index, how):
    async def ask():
        async with running(clara, max_batch=1, max_waiting=0) as engine:
            if how == "close":
                events = engine.ask(ENDLESS, index)
                assert isinstance(await anext(events), Found)
                await events.aclose()
            elif how == "break":
                async for _ in engine.ask(ENDLESS, index):
                    break
            else:
                task = asyncio.create_task(answer(engine, ENDLESS, index))
                await until(lambda: engine.load.tokens)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await until(lambda: not engine.load.running)
            assert engine.load.cancelled == 1
            await until(lambda: all(not batch.cache_bytes for batch in engine._worker.batches))
            return await answer(engine, Question(QUESTIONS[1], max_new_tokens=3), index)

    assert asyncio.run(ask()).usage.completion_tokens == 3


def test_who_leaves_while_waiting_is_never_read(clara, index):
    async def ask():
        async with running(clara, max_batch=1, max_waiting=1) as engine:
            async with held(engine):
                first = asyncio.create_task(answer(engine, QUESTIONS[0], index))
                second = asyncio.create_task(answer(engine, QUESTIONS[1], index))
                await asyncio.sleep(0)
                second.cancel()
                await asyncio.gather(second, return_exceptions=True)
                assert engine.load.waiting == 1
                third = asyncio.create_task(answer(engine, QUESTIONS[2], index))
                await asyncio.sleep(0)
            await asyncio.gather(first, third)
            return engine.load

    load = asyncio.run(ask())
    assert (load.answered, load.cancelled, load.refused) == (2, 1, 0)


def test_keys_and_values_are_let_go_of_when_all_is_answered(clara, index):
    async def ask():
        async with running(clara) as engine:
            await asyncio.gather(*(answer(engine, text, index) for text in QUESTIONS * 3))
            return [batch.cache_bytes for batch in engine._worker.batches]

    assert asyncio.run(ask()) == [0, 0]


def test_closing_finishes_what_is_under_way_and_takes_no_more(clara, index):
    async def ask():
        engine = ClaraEngine(clara)
        async with held(engine):
            asked = [asyncio.create_task(answer(engine, text, index)) for text in QUESTIONS]
            await asyncio.sleep(0)
            closing = asyncio.create_task(engine.close(drain_s=60))
            await until(lambda: not engine.ready)
            with pytest.raises(Busy, match="stopping"):
                await answer(engine, "Who?", index)
            with pytest.raises(Busy, match="stopping"):
                await engine.compress(DOCUMENTS, index)
        await closing
        answers = await asyncio.gather(*asked)
        await engine.close(drain_s=0)
        return answers

    for got, text in zip(asyncio.run(ask()), QUESTIONS, strict=True):
        assert got.text.strip() == clara.ask(text, index).text


@pytest.mark.usefixtures("endless")
def test_closing_cuts_off_what_takes_longer_than_it_waits(clara, index):
    async def ask():
        engine = ClaraEngine(clara, max_batch=1)
        async with held(engine):
            asked = [asyncio.create_task(answer(engine, ENDLESS, index)) for _ in range(2)]
            await asyncio.sleep(0)
        await until(lambda: engine.load.tokens)
        await engine.close(drain_s=0)
        for cut in asked:
            with pytest.raises(OpenClaraError, match="has stopped before this was done"):
                await cut
        return engine.load

    load = asyncio.run(ask())
    assert (load.waiting, load.running, load.cancelled) == (0, 0, 2)


def test_no_thread_is_left_behind(clara, index, tmp_path):
    def ours():
        return {one for one in threading.enumerate() if one.name.startswith("openclara")}

    before = ours()

    async def use(other):
        async with running(clara) as engine:
            await answer(engine, QUESTIONS[0], index)
            await engine.compress(DOCUMENTS, other)
            assert len(ours() - before) == 2

    with LatentIndex.open(tmp_path / "i", clara.latent_spec) as other:
        asyncio.run(use(other))
    assert ours() == before


def test_a_failing_pass_fails_what_is_under_way_and_the_engine_goes_on(
    clara, index, monkeypatch, caplog
):
    with clara.model.roles.use("generator") as lm:
        forward = lm.model.forward
    failing = threading.Event()

    def fail_when_told(*args, **kwargs):
        if failing.is_set():
            failing.clear()
            raise RuntimeError("out of luck")
        return forward(*args, **kwargs)

    monkeypatch.setattr(lm.model, "forward", fail_when_told)

    async def ask():
        async with running(clara) as engine:
            events = engine.ask(ENDLESS, index)
            await anext(events)
            await anext(events)
            failing.set()
            with pytest.raises(OpenClaraError, match=r"inside the service \(RuntimeError\)"):
                [event async for event in events]
            assert engine.ready
            return await answer(engine, QUESTIONS[0], index)

    assert asyncio.run(ask()).text.strip() == clara.ask(QUESTIONS[0], index).text
    assert "out of luck" in caplog.text
    assert QUESTIONS[0] not in caplog.text


def test_a_prompt_that_cannot_be_read_hurts_none_that_is_read_with_it(clara, index, monkeypatch):
    with clara.model.roles.use("generator") as lm:
        forward = lm.model.forward

    def refuse_long(*args, inputs_embeds, **kwargs):
        if inputs_embeds.shape[1] > 40:
            raise torch.OutOfMemoryError("too long")
        return forward(*args, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(lm.model, "forward", refuse_long)
    long = Question(QUESTIONS[0] * 9, context="none")

    async def ask():
        async with running(clara) as engine:
            async with held(engine):
                asked = [
                    asyncio.create_task(answer(engine, question, index))
                    for question in (replace(ENDLESS, max_new_tokens=5), long)
                ]
                await asyncio.sleep(0)
            return await asyncio.gather(*asked, return_exceptions=True)

    fine, refused = asyncio.run(ask())
    assert fine.usage.completion_tokens == 5
    assert isinstance(refused, OpenClaraError)


def test_a_model_that_fails_again_and_again_is_not_ready(clara, index, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("the device is gone")

    async def ask():
        async with running(clara) as engine:
            await until(lambda: engine.ready)
            with clara.model.roles.use("generator") as lm:
                monkeypatch.setattr(lm.model, "forward", fail)
            for _ in range(3):
                assert engine.ready
                with pytest.raises(OpenClaraError):
                    await answer(engine, QUESTIONS[0], index)
            assert not engine.ready
            monkeypatch.undo()
            await answer(engine, QUESTIONS[0], index)
            assert engine.ready

    asyncio.run(ask())


def test_callers_whose_loop_is_gone_do_not_disturb(clara, index):
    engine = ClaraEngine(clara)

    async def begin():
        async with held(engine):
            asyncio.get_running_loop()._stray = engine.ask(ENDLESS, index)  # outlives the loop
            asked = asyncio.create_task(anext(asyncio.get_running_loop()._stray))
            await asyncio.sleep(0)
            asked.cancel()

    asyncio.run(begin())
    gc.collect()

    async def ask():
        try:
            return await answer(engine, QUESTIONS[0], index)
        finally:
            await engine.close(drain_s=0)

    assert asyncio.run(ask()).text.strip() == clara.ask(QUESTIONS[0], index).text


# -- compressing and embedding beside answers -----------------------------------------------------


def many(n):
    return [
        Document(f"d{at}", f"The train number {at} leaves the station. " * 4) for at in range(n)
    ]


def test_it_compresses_beside_asking_and_what_it_returns_is_stored(clara, index, tmp_path):
    documents, more = many(40), threading.Event()

    def until_answered():
        yield from documents[:35]
        more.wait(60)
        yield from documents[35:]

    async def ask(other):
        async with running(clara) as engine:
            compressing = asyncio.create_task(engine.compress(until_answered(), other))
            got = await asyncio.gather(*(answer(engine, text, index) for text in QUESTIONS))
            assert not compressing.done()
            more.set()
            n_new = await compressing
            again = await engine.compress([*documents, DOCUMENTS[0]], other)
            hits = await engine.search("train number 7", other, k=3, mode="hybrid", where=())
            return n_new, again, got, hits

    with LatentIndex.open(tmp_path / "i", clara.latent_spec) as other:
        n_new, again, got, hits = asyncio.run(ask(other))
        with LatentIndex.open(tmp_path / "i") as elsewhere:
            assert len(elsewhere) == 41
        first = documents[0]
        expected = clara.latents(clara._framed(first, clara.chunk(first)), role="compressor")
        stored = torch.stack([hit.latents for hit in other.hits(["d0"])[0]])
        torch.testing.assert_close(stored.float(), expected.float(), rtol=2e-2, atol=2e-2)
    assert (n_new, again, len(hits)) == (40, 1, 3)
    assert [one.text.strip() for one in got] == [one.text for one in clara.ask(QUESTIONS, index)]


def test_who_leaves_a_compression_keeps_what_was_stored_and_can_go_on(clara, tmp_path):
    documents = many(300)

    async def ask(other):
        async with running(clara) as engine:
            compressing = asyncio.create_task(engine.compress(documents, other))
            await until(lambda: len(other))
            compressing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await compressing
            kept = await engine.compress([], other) + len(other)
            assert 0 < kept < 300
            return kept, await engine.compress(documents, other)

    with LatentIndex.open(tmp_path / "i", clara.latent_spec) as other:
        kept, added = asyncio.run(ask(other))
        assert kept + added == len(other) == 300


def test_closing_cuts_a_compression_between_two_groups(clara, tmp_path):
    documents = many(300)

    async def ask(other):
        engine = ClaraEngine(clara)
        compressing = asyncio.create_task(engine.compress(documents, other))
        await until(lambda: len(other))
        await engine.close(drain_s=0)
        with pytest.raises(OpenClaraError, match="has stopped"):
            await compressing

    with LatentIndex.open(tmp_path / "i", clara.latent_spec) as other:
        asyncio.run(ask(other))
        assert 0 < len(other) < 300
        assert other.verify().problems == ()


def test_texts_are_embedded_as_they_are_and_cut_to_the_models_length(clara):
    long = " ".join(f"word{n}" for n in range(60))
    texts = ["short", long, "a little longer than short", *(["more"] * 40)]

    async def ask():
        async with running(clara) as engine:
            return [await engine.embed(texts, role) for role in ("compressor", "reasoner")], (
                await engine.embed([], "compressor")
            )

    (documents, questions), none = asyncio.run(ask())
    spans = clara.tokenizer.offsets([long])[0]
    most = clara.card.doc_max_length
    beginning, end = long[: spans[most - 1][1]], long[spans[-most][0] :]
    for got, role, cut in ((documents, "compressor", beginning), (questions, "reasoner", end)):
        expected = clara.latents([texts[0], cut, *texts[2:]], role=role)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert none.shape == (0, clara.latent_spec.n_memory, clara.latent_spec.width)


def test_other_work_with_the_model_is_done_in_between_and_fails_alone(clara, index):
    async def ask():
        async with running(clara) as engine:
            asked = asyncio.create_task(answer(engine, QUESTIONS[0], index))
            chunks = await engine.run(lambda clara: clara.chunk(DOCUMENTS[1]))
            with pytest.raises(OpenClaraError, match="ZeroDivisionError"):
                await engine.run(lambda clara: 1 // 0)
            await asked
            assert engine.ready
            return chunks

    assert asyncio.run(ask()) == clara.chunk(DOCUMENTS[1])
