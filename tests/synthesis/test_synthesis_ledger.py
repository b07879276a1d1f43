"""The account of all workers, and the files through which they know what was answered."""

from __future__ import annotations

import pytest

from openclara.config import SynthesisConfig
from openclara.errors import DataError, TeacherError
from openclara.synthesis.cache import ReplyCache, key_of
from openclara.synthesis.ledger import Counted, Ledger
from openclara.synthesis.passages import Passage
from openclara.synthesis.replies import WorkFolder
from openclara.synthesis.tasks import Reply, Spent, Task


def teacher(**fields):
    tree = {"output": "o", "documents": "d", "teacher": {"kind": "openai", "model": "m"} | fields}
    return SynthesisConfig.model_validate(tree).teacher


def kept(number, *, failed=False):
    task = Task("answer", document=f"document {number}", question="Who?")
    reply = Reply(text=f"answer {number}", failed=failed, spent=Spent(100, 10, 1, 0.5))
    return key_of("teacher", task), task, reply


def test_a_budget_counts_earlier_sittings_known_replies_and_what_is_charged():
    ledger = Ledger(teacher(budget_tokens=100), Spent(40, 0))
    ledger.count(0, Counted(cost_of_known=Spent(30, 5)))
    assert ledger.exhausted() == ""
    ledger.charge(Spent(20, 5))
    assert "100 of 100 tokens" in ledger.exhausted()
    assert isinstance(ledger.error(), TeacherError)
    # No shard is begun, but what is under way goes on: it has been paid.
    assert ledger.begin(1) is None
    assert ledger.count(0, Counted(done=1))


def test_a_shard_that_is_begun_again_counts_once_but_stays_paid_for():
    ledger = Ledger(teacher(), Spent())
    assert ledger.begin(3) == 1
    ledger.count(3, Counted(2, 5, 7, 11, 1, Spent(100), Spent(10)))
    assert ledger.begin(3) == 2
    ledger.count(3, Counted(4, 9, 18, 3, 0, Spent(100), Spent(1)))
    progress = ledger.progress()
    assert (progress.done, progress.pairs, progress.known) == (4, 9, 18)
    assert (progress.asked, progress.failed) == (14, 1)
    assert progress.spent.prompt_tokens == 111


def test_the_first_error_is_told_and_stops_everybody():
    ledger = Ledger(teacher(), Spent())
    ledger.fail(TeacherError("the key was refused"))
    ledger.fail(TeacherError("the server went away"))
    assert str(ledger.error()) == "the key was refused"
    assert not ledger.count(0, Counted())
    assert ledger.begin(0) is None


def test_who_takes_a_shard_over_knows_what_all_before_were_answered(tmp_path):
    with ReplyCache(tmp_path / "cache.sqlite") as cache:
        cache.put([kept(0)])
        folder = WorkFolder(tmp_path)
        folder.prepare([(12, [Passage("a", "", "text\u2028of it")])], cache)
    assert folder.passages(12) == [Passage("a", "", "text\u2028of it")]
    with folder.replies(12) as first:
        first.put([kept(1), kept(2, failed=True)])
    # Killed in the middle of a line.
    (path,) = (tmp_path / "workers" / "replies").iterdir()
    with path.open("ab") as file:
        file.write(b'["00", "answer", 0, "{')
    with folder.replies(12) as second, folder.replies(13) as other:
        second.put([kept(3)])
        for number in (0, 1, 2, 3):
            assert second.get(kept(number)[0]) == kept(number, failed=number == 2)[2]
        assert second.cost_of_known == Spent(100, 10, 1, 0.5)
        assert second.get(kept(4)[0]) is None
        assert other.get(kept(1)[0]) is None
    assert folder.paid([12, 13]) == Spent(300, 30, 3, 1.5)
    folder.forget_failed()
    assert folder.paid([12]) == Spent(200, 20, 2, 1.0)
    with ReplyCache(tmp_path / "cache.sqlite") as cache:
        folder.absorb(cache)
        folder.clear()
        assert [cache.get(kept(n)[0]) is not None for n in range(4)] == [True, True, False, True]


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(DataError, match="storage that all machines share"):
        WorkFolder(tmp_path).passages(0)
