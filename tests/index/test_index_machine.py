"""The index against a plain dict, through updates, crashes, compactions and reopenings."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from index_cases import SPEC, Stream, compress, latents_of

from openclara.index import LatentIndex, adding, compaction
from openclara.index import database as db
from openclara.types import Document

IDS = st.sampled_from("abcdefgh")
WORDS = st.lists(st.sampled_from(["red", "blue", "green", "sea"]), max_size=6).map(" ".join)
DOCUMENTS = st.builds(
    Document,
    id=IDS,
    text=WORDS,
    title=st.sampled_from(["", "blue"]),
    metadata=st.fixed_dictionaries({"n": st.integers(0, 2)}),
)


class Kill(BaseException):
    """Stands for a kill: what happens after it does not reach the copy of the folder."""


class IndexIsADict(RuleBasedStateMachine):
    @initialize(quantization=st.sampled_from(["bf16", "int8", "int4"]), group=st.integers(1, 5))
    def start(self, quantization, group):
        self.root = Path(tempfile.mkdtemp())
        self.copies = 0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(adding, "GROUP_DOCUMENTS", group)
        self.patch.setattr(compaction, "SMALL_SHARDS", 3)
        # Speed only: what a power cut leaves is not what is tested here.
        self.patch.setattr("os.fsync", lambda _: None)
        self.index = LatentIndex.open(self.root / "0", SPEC, quantization=quantization)
        self.model = {}

    @rule(documents=st.lists(DOCUMENTS, max_size=8), lazy=st.booleans())
    def add(self, documents, lazy):
        self.index.add(Stream(documents) if lazy else map(compress, documents))
        self.model.update({document.id: document for document in documents})

    @rule(names=st.lists(IDS, max_size=3))
    def delete(self, names):
        known = {*names} & self.model.keys()
        assert self.index.delete(names) == len(known)
        for name in known:
            del self.model[name]

    @rule(n=st.integers(0, 2))
    def delete_by_filter(self, n):
        gone = [name for name, document in self.model.items() if document.metadata["n"] == n]
        assert self.index.delete(where=[f"n={n}"]) == len(gone)
        for name in gone:
            del self.model[name]

    @rule()
    def compact(self):
        self.index.compact()
        assert self.index.info().dead_rows == 0

    @rule()
    def reopen(self):
        path = self.index.path
        self.index.close()
        self.index = LatentIndex.open(path, SPEC)

    @rule(documents=st.lists(DOCUMENTS, min_size=1, max_size=8), point=st.integers(0, 3))
    def add_killed(self, documents, point):
        committed = 0

        def note(report):
            nonlocal committed
            committed = report.added + report.updated + report.unchanged

        # Different ids, so that the count of committed documents says which ones.
        documents = list({document.id: document for document in documents}.values())
        self.killed(
            lambda: self.index.add(map(compress, documents), on_progress=note),
            ["write", "record", "put", "merge"][point],
        )
        self.model.update({document.id: document for document in documents[:committed]})

    @rule(point=st.sampled_from(["write", "record"]))
    def compact_killed(self, point):
        self.killed(self.index.compact, point)

    @rule()
    def delete_killed(self):
        self.killed(lambda: self.index.delete(list(self.model)), "commit")

    def killed(self, action, point):
        """Run `action` up to a point, and go on with the folder as it was on the disk just then."""
        self.copies += 1
        copy = self.root / str(self.copies)
        where = {
            "write": (adding if action is not self.index.compact else compaction, "write_shard"),
            "record": (db, "record_shard"),
            "put": (adding, "put_document"),
            "merge": (adding, "merge_small"),
            "commit": (db, "touch"),
        }[point]
        real = getattr(*where)

        def die(*arguments, **options):
            # The shard is written, or the row inserted, and the transaction is not committed.
            if point != "merge":
                real(*arguments, **options)
            shutil.copytree(self.index.path, copy)
            raise Kill

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*where, die)
            # The second attempt, in `finally`, of an interrupted add must not count.
            try:
                action()
                shutil.copytree(self.index.path, copy)
            except Kill:
                pass
        self.index.close()
        self.index = LatentIndex.open(copy, SPEC)

    @invariant()
    def is_the_dict(self):
        assert len(self.index) == len(self.model)
        assert {document.id: document for document in self.index.documents()} == self.model
        for name in "abcdefgh":
            assert (name in self.index) == (name in self.model)
        assert all(map(self.index.holds, self.model.values()))

    @invariant()
    def is_whole(self):
        assert self.index.verify().problems == ()

    @invariant()
    def is_found_by_latents_and_words(self):
        chunks = {
            (document.id, chunk.start, chunk.end)
            for document in self.model.values()
            for chunk in compress(document).chunks
        }
        assert self.index.n_chunks == len(chunks)
        [hits] = self.index.search(["?"], latents_of("red")[None], k=99, mode="latent")
        assert {(hit.document.id, hit.start, hit.end) for hit in hits} == chunks
        for hit in hits:
            error = (hit.latents.float() - latents_of(hit.text)).norm()
            assert error < 0.2 * latents_of(hit.text).norm()
        [hits] = self.index.search(["blue"], None, k=99, mode="lexical", where=["n>=1"])
        assert {(hit.document.id, hit.start, hit.end) for hit in hits} == {
            (name, start, end)
            for name, start, end in chunks
            if self.model[name].metadata["n"] >= 1
            and "blue" in (self.model[name].text[start:end] + " " + self.model[name].title).split()
        }

    def teardown(self):
        if hasattr(self, "index"):
            self.index.close()
            self.patch.undo()
            shutil.rmtree(self.root)


IndexIsADict.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestIndexIsADict = IndexIsADict.TestCase
