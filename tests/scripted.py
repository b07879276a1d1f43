"""A teacher that follows a script: same task, same reply; it can fail, lie and be killed."""

from __future__ import annotations

import hashlib
import random
import re
import sys
import time

from openclara.synthesis.tasks import Reply, Spent

SENTENCE = re.compile(r"[^.]+\.")


def share(*parts: object) -> float:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Scripted:
    """Asks for the last word of each sentence, one sentence a round for the second half.

    Args:
        failing: Part of the tasks that always fail.
        shuffled: Seed of the order replies arrive in; in order if None.
        dies_after: Replies after which the process is killed.
    """

    name = "scripted"
    fingerprint = "scripted-1"

    def __init__(self, *, failing=0.0, shuffled=None, dies_after=None, width=2, pause=0.0):
        self.failing, self.shuffled, self.dies_after = failing, shuffled, dies_after
        self.width, self.pause = width, pause
        self.asked = []
        self.most_under_way = 0

    def perform(self, tasks):
        order = list(range(len(tasks)))
        self.most_under_way = max(self.most_under_way, len(tasks))
        if self.shuffled is not None:
            random.Random(self.shuffled).shuffle(order)
        for at in order:
            self.asked.append(tasks[at])
            if self.pause:
                time.sleep(self.pause)
            yield at, self.reply(tasks[at])
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                import os
                import signal

                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    def reply(self, task):
        spent = Spent(len(task.document.split()), 5, 1, 0.001)
        if share("fail", task) < self.failing:
            return Reply(failed=True, reason="it would not", spent=spent)
        return getattr(self, f"_{task.kind}")(task, spent)

    def _simple_qa(self, task, spent):
        sentences = SENTENCE.findall(task.document)
        asked = sentences[: max(1, len(sentences) // 2)] if task.round == 0 else sentences
        known = {pair.question for pair in task.pairs}
        questions = [self.question(one) for one in asked]
        return Reply(questions=tuple(q for q in questions if q not in known), spent=spent)

    def _complex_qa(self, task, spent):
        return Reply(spent=spent)

    def question(self, sentence):
        words = sentence.strip(" .\n").split()
        return f"What ends the saying {' '.join(words[:-1])}?"

    def _answer(self, task, spent):
        for sentence in SENTENCE.findall(task.document):
            if self.question(sentence) == task.question:
                return Reply(text=sentence.strip(" .\n").split()[-1], spent=spent)
        return Reply(spent=spent)

    def _judge_pair(self, task, spent):
        return Reply(verdict=True, spent=spent)

    def _paraphrase(self, task, spent):
        sentences = [one.strip(" .\n") for one in SENTENCE.findall(task.document)]
        turned = [" – ".join([*one.split()[3:], *one.split()[:3]]) for one in sentences]
        return Reply(text=". ".join(reversed(turned)) + ".", spent=spent)

    def _judge_paraphrase(self, task, spent):
        return Reply(verdict=True, spent=spent)
