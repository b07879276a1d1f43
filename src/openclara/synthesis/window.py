"""Many passages at once, so that a teacher is never idle and nothing is asked twice.

A reply is kept the moment it arrives. Whoever starts again with the same cache comes to the same
results without asking anew, whatever the order in which replies came.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openclara.errors import TeacherError
from openclara.synthesis.cache import key_of
from openclara.synthesis.document import compose
from openclara.synthesis.tasks import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from openclara.config import QualityConfig
    from openclara.synthesis.cache import Replies
    from openclara.synthesis.composed import Composed
    from openclara.synthesis.passages import Passage
    from openclara.synthesis.tasks import Task, Teacher

FINISHED_PER_OPEN = 8
"""Finished passages that may wait for an earlier one, for each open one."""

MOST_FAILED = 50
"""Failures in a row after which the teacher, not the tasks, is taken to be at fault."""


def compose_all(
    passages: Iterable[Passage],
    teacher: Teacher,
    cache: Replies,
    rules: QualityConfig,
    *,
    on_reply: Callable[[Reply, bool], None] = lambda reply, fresh: None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Composed]:
    """Synthesise passages, which are read as they are needed.

    Args:
        passages: What to ask about.
        teacher: Who is asked.
        cache: What is known already, and where replies go.
        rules: Rounds and acceptance.
        on_reply: Called with each reply, and whether it was made now rather than kept. What it
            raises stops the work.
        stop: Asked after each reply; the generator ends early once it is true.

    Yields:
        What became of each passage, in their order.

    Raises:
        TeacherError: The teacher can do no more, or failed many times in a row. What it did is
            kept, save for those last failures, which are asked again.
    """
    asking = _Asking(teacher, cache, on_reply)
    source = iter(passages)
    window: deque[_Open] = deque()
    most = max(1, teacher.width)
    exhausted = False
    while not stop():
        waiting = [one for one in window if one.composed is None]
        while len(waiting) < most and len(window) < FINISHED_PER_OPEN * most:
            passage = next(source, None)
            if passage is None:
                exhausted = True
                break
            one = _Open(compose(passage, rules))
            one.start(teacher.fingerprint)
            asking.advance(one)
            window.append(one)
            if one.composed is None:
                waiting.append(one)
        while window and (composed := window[0].composed) is not None:
            window.popleft()
            yield composed
        # A window of passages whose replies are all known is empty too, with more to come.
        if exhausted and not window:
            asking.finish()
            return
        if waiting and asking.wave(waiting, stop):
            for one in waiting:
                asking.advance(one)


@dataclass(slots=True, eq=False)
class _Open:
    """A passage under way: the tasks it waits for, and the replies there are."""

    steps: Generator[list[Task], list[Reply], Composed]
    tasks: list[Task] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    replies: list[Reply | None] = field(default_factory=list)
    composed: Composed | None = None

    def start(self, fingerprint: str) -> None:
        self._expect(next(self.steps, None), fingerprint)

    def send(self, replies: list[Reply], fingerprint: str) -> None:
        try:
            tasks = self.steps.send(replies)
        except StopIteration as finished:
            self.composed = finished.value
        else:
            self._expect(tasks, fingerprint)

    def _expect(self, tasks: list[Task] | None, fingerprint: str) -> None:
        self.tasks = tasks or []
        self.keys = [key_of(fingerprint, task) for task in self.tasks]
        self.replies = [None] * len(self.tasks)


class _Asking:
    """The teacher behind its cache."""

    def __init__(
        self, teacher: Teacher, cache: Replies, on_reply: Callable[[Reply, bool], None]
    ) -> None:
        self._teacher = teacher
        self._cache = cache
        self._on_reply = on_reply
        self._failures: list[tuple[bytes, Task, Reply]] = []

    def advance(self, one: _Open) -> None:
        """Carry a passage on as far as replies are known."""
        while one.composed is None:
            for at, known in enumerate(one.replies):
                if known is None:
                    kept = one.replies[at] = self._cache.get(one.keys[at])
                    if kept is not None:
                        self._on_reply(kept, False)
            replies = [reply for reply in one.replies if reply is not None]
            if len(replies) < len(one.replies):
                return
            one.send(replies, self._teacher.fingerprint)

    def wave(self, waiting: Sequence[_Open], stop: Callable[[], bool]) -> bool:
        """Ask for all that passages wait for; whether it was not stopped."""
        wanted = {
            key: task
            for one in waiting
            for key, task, known in zip(one.keys, one.tasks, one.replies, strict=True)
            if known is None
        }
        keys, tasks = list(wanted), list(wanted.values())
        made: dict[bytes, Reply] = {}
        arriving = self._teacher.perform(tasks)
        try:
            for at, reply in arriving:
                made[keys[at]] = reply
                self._keep(keys[at], tasks[at], reply)
                self._on_reply(reply, True)
                if stop():
                    return False
        finally:
            # What is still under way is not waited for.
            if close := getattr(arriving, "close", None):
                close()
        nothing = Reply(failed=True, reason="the teacher left the task out")
        for one in waiting:
            for at, key in enumerate(one.keys):
                one.replies[at] = one.replies[at] or made.get(key, nothing)
        return True

    def _keep(self, key: bytes, task: Task, reply: Reply) -> None:
        """Keep a reply; a failure only once a later success shows that the teacher is there."""
        if not reply.failed:
            self._cache.put([*self._failures, (key, task, reply)])
            self._failures.clear()
            return
        self._failures.append((key, task, reply))
        if len(self._failures) >= MOST_FAILED:
            raise TeacherError(
                f"the teacher failed {MOST_FAILED} times in a row ({reply.reason or 'no reason'}); "
                "see to it and run the same command to go on"
            )

    def finish(self) -> None:
        """Keep the failures after the last success too: the work is done with them."""
        self._cache.put(self._failures)
        self._failures.clear()
