"""Many passages through one teacher."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted
from towns import document

from openclara.config import QualityConfig
from openclara.errors import DataError, TeacherError
from openclara.synthesis.cache import ReplyCache, key_of
from openclara.synthesis.passages import Passage
from openclara.synthesis.tasks import Pair, Reply, Spent, Task
from openclara.synthesis.window import FINISHED_PER_OPEN, MOST_FAILED, compose_all

PASSAGES = [Passage(one["id"], one["title"], one["text"]) for one in map(document, range(9))]
RULES = QualityConfig()


@pytest.fixture
def cache(tmp_path):
    with ReplyCache(tmp_path / "cache.sqlite") as opened:
        yield opened


def test_results_do_not_depend_on_the_order_of_replies(tmp_path):
    results = []
    for seed, width in ((None, 1), (1, 3), (2, 40)):
        with ReplyCache(tmp_path / f"{seed}.sqlite") as cache:
            teacher = Scripted(failing=0.1, shuffled=seed, width=width)
            results.append(list(compose_all(PASSAGES, teacher, cache, RULES)))
    assert results[0] == results[1] == results[2]
    assert [one.passage for one in results[0]] == PASSAGES


def test_nothing_is_asked_twice(cache):
    first = Scripted(failing=0.1)
    made = list(compose_all(PASSAGES, first, cache, RULES))
    keys = [key_of("", task) for task in first.asked]
    assert len(set(keys)) == len(keys)
    second = Scripted(failing=0.1)
    assert list(compose_all(PASSAGES, second, cache, RULES)) == made
    assert second.asked == []


def test_more_passages_that_are_all_known_than_are_open_at_once_all_come(cache):
    made = list(compose_all(PASSAGES, Scripted(), cache, RULES))
    again = Scripted(width=1)
    assert len(PASSAGES) > FINISHED_PER_OPEN * again.width
    assert list(compose_all(PASSAGES, again, cache, RULES)) == made


def test_the_teacher_always_has_as_many_tasks_as_it_likes(cache):
    waves = []

    class Counting(Scripted):
        def perform(self, tasks):
            waves.append(len(tasks))
            yield from super().perform(tasks)

    list(compose_all(PASSAGES, Counting(width=3), cache, RULES))
    # While passages remain, each of three open ones waits for at least one task.
    assert min(waves[:-3]) >= 3


def test_another_teacher_is_asked_anew(cache):
    list(compose_all(PASSAGES[:2], Scripted(), cache, RULES))
    other = Scripted()
    other.fingerprint = "scripted-2"
    list(compose_all(PASSAGES[:2], other, cache, RULES))
    assert other.asked


def test_stopping_keeps_what_came(cache):
    first = Scripted()
    made = list(compose_all(PASSAGES, first, cache, RULES, stop=lambda: len(first.asked) >= 20))
    assert len(first.asked) == 20
    assert len(made) < len(PASSAGES)
    second = Scripted()
    assert len(list(compose_all(PASSAGES, second, cache, RULES))) == len(PASSAGES)
    assert not {key_of("", t) for t in first.asked} & {key_of("", t) for t in second.asked}


def test_a_teacher_that_is_gone_stops_the_work_and_leaves_no_failures_behind(cache):
    class Gone(Scripted):
        def reply(self, task):
            if len(self.asked) > 30:
                return Reply(failed=True, reason="the server is away")
            return super().reply(task)

    gone = Gone(width=50)
    with pytest.raises(TeacherError, match="the server is away"):
        list(compose_all(PASSAGES, gone, cache, RULES))
    assert len(gone.asked) == 30 + MOST_FAILED
    back = list(compose_all(PASSAGES, Scripted(), cache, RULES))
    assert sum(one.n_failed for one in back) == 0


def test_a_task_that_the_teacher_leaves_out_counts_as_failed(cache):
    class Forgetful(Scripted):
        def perform(self, tasks):
            yield from list(super().perform(tasks))[1:]

    (one,) = compose_all(PASSAGES[:1], Forgetful(), cache, RULES)
    assert one.n_failed > 0


@given(
    st.builds(Pair, st.text(), st.text()),
    st.builds(
        Reply,
        questions=st.lists(st.text()).map(tuple),
        text=st.text(st.characters()),
        verdict=st.booleans(),
        spent=st.builds(Spent, st.integers(0, 2**40), money=st.floats(0, 1e9)),
    ),
)
def test_the_cache_gives_back_what_it_got(tmp_path_factory, pair, reply):
    task = Task("answer", "text", pairs=(pair,), question="\ud800")
    key = key_of("teacher", task)
    assert key != key_of("teachers", task)
    with ReplyCache(tmp_path_factory.mktemp("cache") / "c.sqlite") as cache:
        assert cache.get(key) is None
        cache.put([(key, task, reply)])
        assert cache.get(key) == reply


def test_the_cache_holds_no_document_text(cache, tmp_path):
    list(compose_all(PASSAGES[:1], Scripted(), cache, QualityConfig(paraphrases=0)))
    with sqlite3.connect(tmp_path / "cache.sqlite") as database:
        rows = database.execute("select * from replies").fetchall()
    assert rows
    assert not any("was drawn by the architect Utzon" in str(row) for row in rows)


def test_a_full_disk_is_a_sentence_and_loses_nothing(cache, tmp_path):
    first, second = (Task("answer", "text", round=number) for number in range(2))
    cache.put([(key_of("t", first), first, Reply(text="kept"))])
    cache._database.execute("pragma max_page_count = 3")
    with pytest.raises(DataError, match="see to the disk"):
        cache.put([(key_of("t", second), second, Reply(text="x" * 100_000))])
    assert cache.get(key_of("t", first)) == Reply(text="kept")


def test_a_file_that_is_no_cache_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "cache.sqlite"
    path.write_text("something else entirely, and long enough to be looked at" * 20)
    with pytest.raises(DataError, match="delete it or name another"):
        ReplyCache(path)
