"""The index against a plain dict again, now with segments that are built, merged and killed."""

import shutil

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from index_cases import SPEC, compress, latents_of
from test_index_machine import DOCUMENTS, IndexIsADict, Kill

from openclara.index import LatentIndex, store
from openclara.index.coarse import building, segment
from openclara.index.coarse.settings import Coarse


class IndexWithSegmentsIsADict(IndexIsADict):
    @initialize(
        quantization=st.sampled_from(["bf16", "int8", "int4"]),
        group=st.integers(1, 5),
        waiting=st.integers(0, 3),
        chunks=st.integers(1, 4),
    )
    def start(self, quantization, group, waiting, chunks):
        # `open` has its default in its signature, and the machine calls it without.
        coarse = Coarse(from_chunks=1, candidates=1)
        self.patch_open = pytest.MonkeyPatch()
        real = LatentIndex.open.__func__
        self.patch_open.setattr(
            store.LatentIndex,
            "open",
            classmethod(lambda cls, *args, **options: real(cls, *args, coarse=coarse, **options)),
        )
        super().start(quantization, group)
        self.patch.setattr(building, "WAITING_CHUNKS", waiting)
        self.patch.setattr(building, "WAITING_SHARE", 10**9)
        self.patch.setattr(building, "SEGMENT_LATENTS", chunks * SPEC.n_memory)

    @rule(
        documents=st.lists(DOCUMENTS, min_size=1, max_size=8),
        point=st.sampled_from(["written", "recorded", "half recorded"]),
    )
    def build_killed(self, documents, point):
        """Killed while the segments are brought up: everything that was added stays."""
        documents = list({document.id: document for document in documents}.values())
        self.copies += 1
        copy = self.root / str(self.copies)
        target, name = {
            "written": (segment, "write_durably"),
            "recorded": (building, "record_segment"),
            "half recorded": (building, "forget_segments"),
        }[point]
        real = getattr(target, name)

        def die(*arguments, **options):
            real(*arguments, **options)
            shutil.copytree(self.index.path, copy)
            raise Kill

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, die)
            try:
                self.index.add(map(compress, documents))
                shutil.copytree(self.index.path, copy)
            except Kill:
                pass
        self.index.close()
        self.index = LatentIndex.open(copy, SPEC)
        self.model.update({document.id: document for document in documents})

    @invariant()
    def nominated_hits_are_true_hits(self):
        query = latents_of("blue")[None]
        [hits] = self.index.search(["?"], query, k=1, mode="latent")
        [every] = self.index.search(["?"], query, k=99, mode="latent", exact=True)
        scores = {(hit.document.id, hit.start): hit.score for hit in every}
        assert len(hits) == min(1, len(every))
        assert all(hit.score == scores[hit.document.id, hit.start] for hit in hits)

    def teardown(self):
        super().teardown()
        if hasattr(self, "patch_open"):
            self.patch_open.undo()


IndexWithSegmentsIsADict.TestCase.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None
)
TestIndexWithSegmentsIsADict = IndexWithSegmentsIsADict.TestCase
