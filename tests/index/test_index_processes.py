"""Several processes on one index: kills, two writers, readers during a compaction."""

import multiprocessing
import os
import random
import signal
import time

import pytest
from index_cases import SPEC, Stream, compress, latents_of

from openclara.errors import IndexBusy
from openclara.index import LatentIndex, adding, compaction, creation
from openclara.types import Document


@pytest.fixture(scope="module")
def processes():
    """Children of a server that has imported everything: they start in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["openclara.index.store"])
    return context


def document(number):
    return Document(f"d{number}", f"the text of number {number}", title=f"T{number}")


def add_and_change_for_ever(path, pipe, first, seed):
    """Add, update, delete and compact until killed, telling what is certain to be stored."""
    adding.GROUP_DOCUMENTS, compaction.SMALL_SHARDS = 3, 4
    choose = random.Random(seed)
    with LatentIndex.open(path, SPEC) as index:
        pipe.send(("ready", 0))
        for start in range(first, 10**6, 12):

            def note(report, start=start):
                pipe.send(("added", start + report.added))

            index.add(map(compress, map(document, range(start, start + 12))), on_progress=note)
            if choose.random() < 0.3:
                index.delete([f"d{start}"])
                pipe.send(("deleted", start))
                index.compact()


def sent_before_the_kill(pipe):
    messages = []
    with pipe:
        while True:
            try:
                messages.append(pipe.recv())
            except (EOFError, OSError):
                return messages


def test_a_kill_loses_nothing_that_was_reported(tmp_path, processes):
    path, choose = tmp_path / "i", random.Random(7)
    LatentIndex.open(path, SPEC).close()
    reached, deleted = 0, set()
    for attempt in range(12):
        ours, theirs = processes.Pipe()
        child = processes.Process(
            target=add_and_change_for_ever, args=(path, theirs, reached, attempt)
        )
        child.start()
        theirs.close()
        assert ours.recv() == ("ready", 0)
        messages = [ours.recv() for _ in range(choose.randint(1, 8))]
        time.sleep(choose.uniform(0.0, 0.02))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        messages += sent_before_the_kill(ours)
        for kind, number in messages:
            if kind == "added":
                reached = number
            else:
                deleted.add(number)
        recorded = reached
        with LatentIndex.open(path) as index:
            held = {int(d.id[1:]) for d in index.documents()}
            assert index.verify().problems == ()
            missing = set(range(recorded)) - held - deleted
            # A deletion may be stored and its report killed; only the last batch can have one.
            assert all(number >= recorded - 12 for number in missing)
            assert len(missing) <= 1
            deleted |= missing
            assert not held & (deleted - missing)
            # What was stored and not reported is at most one group, whole.
            surplus = sorted(number for number in held if number >= recorded)
            assert surplus in ([], list(range(recorded, recorded + 3)))
            reached += len(surplus)
            for number in sorted(held)[:: max(1, len(held) // 10)]:
                assert index.get(f"d{number}") == document(number)
                tail = document(number).text[12:]
                [[hit]] = index.search(["q"], latents_of(tail)[None], k=1, mode="latent")
                assert (hit.document.id, hit.text) == (f"d{number}", tail)
    assert reached >= 12 * 3
    with LatentIndex.open(path) as index:
        stream = Stream(map(document, sorted(held)))
        assert index.add(stream).unchanged == len(held)
        assert sorted(p.name for p in path.glob("latents*")) == sorted(
            f"latents-{number:06d}.safetensors" for number in recorded_shards(index)
        )


def recorded_shards(index):
    with index._database.reading() as connection:
        return [key for (key,) in connection.execute("SELECT key FROM shards")]


def hold_the_lock(path, pipe):
    def slowly():
        yield compress(document(0))
        pipe.send("writing")
        pipe.recv()
        yield compress(document(1))

    with LatentIndex.open(path) as index:
        index.add(slowly())
    pipe.send("done")


def test_a_second_writer_is_told_so_and_readers_go_on(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(creation, "LOCK_WAIT_S", 0.1)
    path = tmp_path / "i"
    with LatentIndex.open(path, SPEC) as index:
        ours, theirs = processes.Pipe()
        child = processes.Process(target=hold_the_lock, args=(path, theirs))
        child.start()
        theirs.close()  # or a child that fails would be waited for
        assert ours.recv() == "writing"
        for change in (
            lambda: index.add([compress(document(5))]),
            lambda: index.delete(["d0"]),
            index.compact,
            lambda: index.verify(repair=True),
        ):
            with pytest.raises(IndexBusy, match=r"another process is writing to .*run again"):
                change()
        assert index.search(["q"], latents_of("x")[None], k=3) == [[]]
        assert index.verify().ok
        ours.send("go on")
        assert ours.recv() == "done"
        child.join()
        assert {d.id for d in index.documents()} == {"d0", "d1"}
        index.add([compress(document(5))])
        assert len(index) == 3


def compact_for_ever(path, pipe):
    adding.GROUP_DOCUMENTS = 2
    with LatentIndex.open(path) as index:
        pipe.send("ready")
        number = 100
        while not pipe.poll():
            index.add(map(compress, map(document, range(number, number + 6))))
            index.delete(f"d{n}" for n in range(number, number + 6))
            index.compact()
            number += 6
        pipe.send(number)


def test_readers_find_the_same_during_compactions(tmp_path, processes):
    path = tmp_path / "i"
    with LatentIndex.open(path, SPEC) as index:
        index.add(map(compress, map(document, range(20))))
        ours, theirs = processes.Pipe()
        child = processes.Process(target=compact_for_ever, args=(path, theirs))
        child.start()
        theirs.close()
        assert ours.recv() == "ready"
        query = latents_of("number 7")[None]
        generations = set()
        while len(generations) < 12:
            [hits] = index.search(["number 7"], query, k=1)
            assert (hits[0].document.id, hits[0].text) == ("d7", "number 7")
            with LatentIndex.open(path) as fresh:
                assert fresh.search(["q"], query, k=1, mode="latent")[0][0].document.id == "d7"
                assert fresh.verify().problems == ()
            generations.add(index._views._latest.generation)
        ours.send("stop")
        assert ours.recv() > 106
        child.join()
        assert len(index) == 20


def create(path, pipe):
    try:
        with LatentIndex.open(path, SPEC) as index:
            pipe.send(index.spec)
    except Exception as error:
        pipe.send(error)


def test_several_may_create_the_same_index_at_once(tmp_path, processes):
    pipes = [processes.Pipe() for _ in range(4)]
    children = [
        processes.Process(target=create, args=(tmp_path / "i", theirs)) for _, theirs in pipes
    ]
    for child, (_, theirs) in zip(children, pipes, strict=True):
        child.start()
        theirs.close()
    assert [ours.recv() for ours, _ in pipes] == [SPEC] * 4
    for child in children:
        child.join()
