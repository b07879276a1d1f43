"""The endpoint teacher against a server that fails in every way a server can."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading

import pytest
from stand_in import StandIn

from openclara.errors import TeacherError
from openclara.synthesis.tasks import Task
from openclara.synthesis.teachers.budget import Budget, Prices
from openclara.synthesis.teachers.endpoint import EndpointTeacher
from openclara.synthesis.teachers.pacing import Backoff
from openclara.synthesis.teachers.rules.teacher import carry_out

DOCUMENT = (
    "The Sydney Opera House was designed by Jørn Utzon in 1957. Jørn Utzon was a Danish "
    "architect. The Sydney Opera House was opened by Queen Elizabeth II on 20 October 1973."
)


def tasks(n: int = 1, kind: str = "simple_qa") -> list[Task]:
    return [Task(kind, f"{DOCUMENT} It has {number} rooms.", "Sydney") for number in range(n)]


class Times:
    """A clock that only sleeping moves, and what was slept."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def teacher(server: StandIn, **options) -> EndpointTeacher:
    options.setdefault("backoff", Backoff(first_s=0.01, most_s=0.05))
    return EndpointTeacher("stand-in", base_url=server.url, **options)


def test_every_task_is_answered_once_with_what_the_model_wrote() -> None:
    asked = [
        *tasks(5),
        *tasks(2, "complex_qa"),
        *tasks(2, "paraphrase"),
        Task("answer", DOCUMENT, question="Who designed the Sydney Opera House?"),
        Task(
            "judge_pair",
            DOCUMENT,
            question="Who designed the Sydney Opera House?",
            answer="Jørn Utzon",
        ),
        Task("judge_paraphrase", DOCUMENT, paraphrase="It was built by Romans in 1850."),
    ]
    with StandIn() as server:
        got = list(teacher(server).perform(asked))
    assert sorted(position for position, _ in got) == list(range(len(asked)))
    for position, reply in got:
        expected = carry_out(asked[position])
        assert (reply.questions, reply.text, reply.verdict, reply.failed) == (
            expected.questions,
            expected.text,
            expected.verdict,
            False,
        )
    assert server.done.total() == len(asked) == reply_count(server)


def collect(replies, got: list) -> None:
    """Gather replies one by one, so that those before an error are kept."""
    for one in replies:
        got.append(one)  # noqa: PERF402 - as said


def reply_count(server: StandIn) -> int:
    assert set(server.answers.values()) == {1}
    return len(server.answers)


PASSING = [
    "timeout",
    "drop",
    "cut_body",
    "bad_body",
    "html",
    "empty",
    "broken_json",
    "length",
    "408",
    "409",
    "429",
    "500",
    "503",
]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_asked_again_and_counted(fault: str) -> None:
    kind = "paraphrase" if fault == "length" else "simple_qa"
    with StandIn(script=[fault], hang_s=5.0) as server:
        ((_, reply),) = teacher(server, timeout_s=0.5 if fault == "timeout" else 20.0).perform(
            tasks(1, kind)
        )
    assert not reply.failed
    assert (reply.spent.requests, server.faults[fault], server.done[kind]) == (2, 1, 1)


@pytest.mark.parametrize("fault", ["refusal", "content_filter"])
def test_a_refusal_is_not_asked_again(fault: str) -> None:
    with StandIn(script=[fault]) as server:
        ((_, reply),) = teacher(server).perform(tasks())
    assert reply.failed
    assert "refused" in reply.reason or "filter" in reply.reason
    assert len(server.requests) == 1


def test_under_many_faults_no_task_is_lost_and_none_is_doubled() -> None:
    rates = {"429": 0.1, "500": 0.1, "drop": 0.1, "cut_body": 0.1, "broken_json": 0.1, "html": 0.1}
    with StandIn(rates=rates, seed=3) as server:
        got = list(teacher(server, concurrency=8).perform(tasks(60)))
    assert sorted(position for position, _ in got) == list(range(60))
    assert not any(reply.failed for _, reply in got)
    assert reply_count(server) == 60
    assert sum(reply.spent.requests for _, reply in got) == 60 + server.faults.total()
    assert server.faults.total() > 20


def test_a_task_is_given_up_after_its_attempts() -> None:
    with StandIn(script=["500"] * 3) as server:
        got = dict(teacher(server, attempts=3, concurrency=1).perform(tasks(2)))
    assert got[0].failed
    assert "500" in got[0].reason
    assert got[0].spent.requests == 3
    assert not got[1].failed


def test_a_server_that_stays_away_ends_the_run_in_one_sentence() -> None:
    with (
        StandIn(rates={"500": 1.0}, most_faults=99) as server,
        pytest.raises(TeacherError) as caught,
    ):
        list(teacher(server, attempts=2, concurrency=2).perform(tasks(30)))
    # At least four; what was under way meanwhile counts too.
    assert re.search(r"failed \d+ tasks in a row \(status 500\)", str(caught.value))
    assert len(server.requests) < 15


def test_waits_grow_are_bounded_and_heed_what_the_server_asks() -> None:
    times = Times()
    with StandIn(script=["500"] * 5) as server:
        list(
            teacher(
                server, backoff=Backoff(1.0, 4.0), clock=times.clock, sleep=times.sleep
            ).perform(tasks())
        )
    bounds = [(0.5, 1), (1, 2), (2, 4), (2, 4), (2, 4)]
    assert len(times.slept) == 5
    assert all(low <= wait <= high for wait, (low, high) in zip(times.slept, bounds, strict=True))

    times = Times()
    with StandIn(script=["429"], retry_after="17") as server:
        list(teacher(server, clock=times.clock, sleep=times.sleep).perform(tasks()))
    assert 17 <= sum(times.slept) <= 18.1


def test_a_server_that_asks_to_come_back_tomorrow_ends_the_run() -> None:
    with (
        StandIn(script=["429"], retry_after="86400") as server,
        pytest.raises(TeacherError, match="86400 s"),
    ):
        list(teacher(server).perform(tasks()))


def test_requests_per_minute_are_kept() -> None:
    times = Times()
    with StandIn() as server:
        list(
            teacher(
                server, concurrency=1, requests_per_minute=10, clock=times.clock, sleep=times.sleep
            ).perform(tasks(25))
        )
    assert times.now == pytest.approx(120.0)


def test_no_more_requests_are_under_way_than_allowed() -> None:
    with StandIn(latency_s=0.02) as server:
        list(teacher(server, concurrency=3).perform(tasks(12)))
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("formats", "steps"),
    [(("json_schema", "json_object"), 0), (("json_object",), 1), ((), 2)],
)
def test_structured_output_is_asked_for_only_as_far_as_the_server_knows_it(formats, steps) -> None:
    with StandIn(formats=formats) as server:
        got = list(teacher(server, concurrency=1).perform(tasks(3)))
    assert not any(reply.failed for _, reply in got)
    # What the first task found out holds for the others.
    assert sum(reply.spent.requests for _, reply in got) == 3 + steps
    kinds = [(body.get("response_format") or {}).get("type", "") for body in server.requests]
    assert set(kinds) == {formats[0] if formats else ""}


def test_fields_that_a_server_does_not_know_are_left_out() -> None:
    with StandIn(unknown_fields=["max_tokens", "temperature", "seed"]) as server:
        got = list(teacher(server, concurrency=1).perform(tasks(2)))
    assert not any(reply.failed for _, reply in got)
    assert all("max_completion_tokens" in body for body in server.requests)
    assert all("response_format" in body for body in server.requests)


def test_the_budget_is_passed_by_no_more_than_what_was_under_way() -> None:
    with StandIn(latency_s=0.01) as server:
        poor = teacher(server, concurrency=4, budget=Budget(tokens=1000))
        got = []
        with pytest.raises(TeacherError, match="budget is spent"):
            got.extend(one for one in poor.perform(tasks(50)))
    assert poor.budget.spent.prompt_tokens + poor.budget.spent.completion_tokens >= 1000
    # 110 tokens each: the tenth passes it, and three more may have been under way.
    assert 10 <= len(server.requests) <= 13


def test_replies_before_the_end_of_the_budget_are_handed_out() -> None:
    with StandIn() as server:
        poor = teacher(server, concurrency=2, budget=Budget(money=0.5), prices=Prices(1000.0, 0.0))
        got = []
        replies = poor.perform(tasks(50))
        with pytest.raises(TeacherError):
            collect(replies, got)
    assert len(got) == len(server.requests) == reply_count(server)
    assert got[0][1].spent.money == pytest.approx(0.1)


def test_usage_is_estimated_where_the_server_does_not_count() -> None:
    with StandIn(counts=False) as server:
        ((_, reply),) = teacher(server).perform(tasks())
    assert reply.spent.prompt_tokens > 100
    assert reply.spent.completion_tokens > 5


def test_a_refused_key_an_unknown_model_and_a_missing_server_end_the_run_at_once(
    monkeypatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with StandIn(key="another") as server:
        with pytest.raises(TeacherError, match="refuses the API key") as caught:
            list(teacher(server).perform(tasks(9)))
        assert len(server.requests) == 0
    assert "sk-very-secret" not in str(caught.value)
    with StandIn(model="other") as server, pytest.raises(TeacherError, match="no such model"):
        list(teacher(server).perform(tasks(9)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(TeacherError, match="no server answers"):
            list(EndpointTeacher("stand-in", base_url=url).perform(tasks(9)))


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "ftp://x/v1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TeacherError, match="no web address"):
        EndpointTeacher("m", base_url=url)


def test_a_key_is_needed_elsewhere_and_comes_from_the_environment_alone(
    monkeypatch, caplog
) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    far = EndpointTeacher("m", base_url="https://example.invalid/v1", key_variable="TEACHER_KEY")
    with pytest.raises(TeacherError, match="TEACHER_KEY holds no API key"):
        list(far.perform(tasks()))
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    with StandIn() as server, caplog.at_level(logging.DEBUG):
        near = teacher(server, key_variable="TEACHER_KEY")
        list(near.perform(tasks()))
        assert server.keys == {"sk-very-secret"}
    assert "sk-very-secret" not in caplog.text + repr(vars(near)) + near.fingerprint
    assert "Utzon" not in caplog.text


def test_an_iterator_that_is_left_early_gives_up_what_is_under_way() -> None:
    before = threading.active_count()
    with StandIn(latency_s=0.05) as server:
        replies = teacher(server, concurrency=2).perform(tasks(40))
        next(replies)
        replies.close()
        assert len(server.requests) < 10
    assert threading.active_count() <= before + 4


def test_it_works_from_inside_a_running_loop() -> None:
    async def inside() -> int:
        with StandIn() as server:
            return len(list(teacher(server).perform(tasks(3))))

    assert asyncio.run(inside()) == 3


def test_the_fingerprint_changes_with_whatever_changes_replies() -> None:
    url = "http://127.0.0.1:1/v1"
    same = {EndpointTeacher("m", base_url=url, concurrency=n).fingerprint for n in (1, 2)}
    others = {
        EndpointTeacher("n", base_url=url).fingerprint,
        EndpointTeacher("m", base_url=url + "/x").fingerprint,
        EndpointTeacher("m", base_url=url, temperature=0.1).fingerprint,
        EndpointTeacher("m", base_url=url, seed=1).fingerprint,
        EndpointTeacher("m", base_url=url, extra_body={"a": 1}).fingerprint,
    }
    assert len(same) == 1
    assert len(others | same) == 6


def test_a_list_that_was_cut_off_keeps_its_whole_questions() -> None:
    with StandIn(script=["length"]) as server:
        ((_, reply),) = teacher(server).perform(tasks())
    whole = carry_out(tasks()[0]).questions
    assert reply.questions == whole[: len(reply.questions)] or reply.spent.requests == 2
