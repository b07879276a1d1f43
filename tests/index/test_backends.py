"""One interface, two kinds of index: the same tests for a folder and for Milvus."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from index_cases import LookingAhead, Stream, compress, latents_of, one_chunk

from openclara.errors import ConfigError, DataError, FormatError, IndexMismatch
from openclara.index import AddReport, LatentIndex, adding
from openclara.types import Document, LatentSpec

SPEC = LatentSpec("tiny", "abc", n_memory=4, width=8, doc_max_length=32, score="late")


@pytest.fixture(params=["folder", "milvus"])
def opened(request, tmp_path, monkeypatch):
    """Opens the index of the test, made when first opened."""
    if request.param == "folder":
        monkeypatch.setattr("os.fsync", lambda _: None)
        return lambda spec=SPEC, **options: LatentIndex.open(tmp_path / "i", spec, **options)
    pytest.importorskip("milvus_lite")
    from milvus_lite.server_manager import server_manager_instance

    from openclara.index.milvus import MilvusIndex

    def fresh(spec=SPEC, **options):
        server_manager_instance.release_all()  # as when a process ends
        return MilvusIndex.open(tmp_path / "i.db", spec, **options)

    return fresh


def document(number, text="the text of number {}", **fields):
    return Document(f"d{number}", text.format(number), metadata={"n": number}, **fields)


def compressed(numbers):
    return [compress(document(number), SPEC) for number in numbers]


def named(hits):
    return [(hit.document.id, hit.start, hit.score) for hit in hits]


def test_documents_are_added_replaced_and_kept(opened):
    with opened() as index:
        report = index.add(compressed(range(5)))
        assert (report.added, report.updated, report.unchanged) == (5, 0, 0)
        assert (len(index), index.n_chunks) == (5, 10)
        assert index.add(compressed(range(2))).unchanged == 2
        moved = Document("d1", document(1).text, source="elsewhere", metadata={"n": 9})
        changed = document(2, "another text for {}")
        report = index.add([compress(moved, SPEC), compress(changed, SPEC)])
        assert (report.updated, report.chunks) == (2, 2)
    with opened(None) as index:
        assert index.spec == SPEC
        assert index.get("d1") == moved
        assert index.get("d2") == changed
        assert [one.id for one in index.documents()] == [f"d{i}" for i in range(5)]
        assert "d3" in index
        assert "x" not in index
        assert index.holds(changed)
        [[first, second]] = index.hits(["d2"])
        assert (first.text + second.text) == changed.text
        assert torch.equal(first.latents, latents_of(first.text, SPEC).bfloat16())
        with pytest.raises(DataError, match="has no document 'x'"):
            index.get("x")


def test_only_what_is_new_or_changed_is_compressed(opened):
    with opened() as index:
        index.add(Stream([document(i) for i in range(6)]))
        changed, new = document(4, "another text for {}"), document(9)
        stream = Stream([*(document(i) for i in range(4)), changed, new])
        assert index.add(stream) == AddReport(added=1, updated=1, unchanged=4, chunks=4)
        assert stream.compressed == ["d4", "d9"]
        assert index.get("d4") == changed


@pytest.mark.parametrize("kind", [list, Stream])
def test_a_new_source_or_metadata_keeps_chunks_and_latents(opened, kind):
    with opened() as index:
        index.add(compressed(range(3)))
        before = index.hits(["d1"])[0]
        moved = replace(document(1), source="elsewhere", metadata={"n": 9})
        # Other chunks and latents of the same text: those that are stored stay.
        stream = Stream([moved]) if kind is Stream else [one_chunk(moved, torch.randn(4, 8))]
        assert index.add(stream) == AddReport(updated=1)
        assert getattr(stream, "compressed", []) == []
    with opened(None) as index:
        assert index.get("d1") == moved
        assert [one.id for one in index.documents(where=["n=9"])] == ["d1"]
        after = index.hits(["d1"])[0]
        spans = [(hit.start, hit.end, hit.n_tokens) for hit in before]
        assert [(hit.start, hit.end, hit.n_tokens) for hit in after] == spans
        for hit, earlier in zip(after, before, strict=True):
            assert torch.equal(hit.latents, earlier.latents)
        assert index.n_chunks == 6
        query = torch.nn.functional.normalize(before[1].latents.float(), dim=-1)[None]
        [[found]] = index.search(["q"], query, k=1, mode="latent")
        assert (found.document, found.start) == (moved, before[1].start)


@pytest.mark.parametrize("group", [1, 64])
@pytest.mark.parametrize("kind", [list, Stream, LookingAhead])
def test_of_one_id_the_last_counts(opened, monkeypatch, group, kind):
    monkeypatch.setattr(adding, "GROUP_DOCUMENTS", group)
    one, two = Document("a", "one"), Document("a", "two")
    stored = replace(one, title="stored")
    with opened() as index:
        index.add([compress(stored, SPEC)])
        for last in ([two, one], [two, one, two, stored], [stored, replace(one, title="x")]):
            index.add(list(Stream(last)) if kind is list else kind(last))
            assert index.get("a") == last[-1]
            assert len(index) == index.n_chunks == 1


def test_progress_is_reported_after_each_commit(opened, monkeypatch):
    monkeypatch.setattr(adding, "GROUP_DOCUMENTS", 4)
    with opened() as index:
        seen = []
        report = index.add(
            compressed(range(10)), on_progress=lambda so_far: seen.append((so_far, len(index)))
        )
        expected = [(AddReport(added=n, chunks=2 * n), n) for n in (4, 8, 10)]
        assert seen == expected
        assert report == expected[-1][0]


def test_what_came_before_an_error_in_the_stream_is_kept(opened):
    def stream():
        yield from compressed(range(3))
        raise KeyboardInterrupt

    with opened() as index:
        with pytest.raises(KeyboardInterrupt):
            index.add(stream())
        assert len(index) == 3
        again = Stream([document(i) for i in range(4)])
        assert index.add(again) == AddReport(added=1, unchanged=3, chunks=2)


def test_what_cannot_be_stored_is_refused_before_it_is_compressed(opened):
    stream = Stream([document(1), Document("d2", "text", metadata={"x": float("nan")})])
    with opened() as index:
        with pytest.raises(DataError, match="metadata 'x'"):
            index.add(stream)
        assert stream.compressed == ["d1"]
        assert [one.id for one in index.documents()] == ["d1"]


@pytest.mark.parametrize("text", ["", "\0 \ud800 é", '"; drop', "long " * 30_000])
def test_any_text_comes_back(opened, text):
    given = Document('a "quoted" id', text, "ti\0tle"[:2], "s", {"é": True, "x": None, "f": 0.5})
    with opened() as index:
        index.add([one_chunk(given, torch.randn(4, 8))] if text else [compress(given, SPEC)])
    with opened() as index:
        assert index.get(given.id) == given


def test_search_is_the_exact_late_score(opened):
    rows = torch.randn(40, 4, 8).bfloat16().float()
    query = torch.randn(2, 3, 8)
    with opened() as index:
        index.add(one_chunk(document(i), row) for i, row in enumerate(rows))
        found = index.search(["q", "q"], query, k=7, mode="latent")
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    scores = torch.einsum("qpd,nmd->qnpm", query.double(), unit).amax(-1).sum(-1)
    for hits, expected in zip(found, scores, strict=True):
        order = expected.argsort(descending=True)[:7].tolist()
        assert [hit.document.id for hit in hits] == [f"d{i}" for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], expected[order], atol=1e-6)
        assert torch.equal(hits[0].latents, rows[order[0]].bfloat16())


def test_filters_and_deletions(opened):
    with opened() as index:
        index.add(compressed(range(12)))
        query = latents_of("x", SPEC)[None]
        [hits] = index.search(["q"], query, k=5, mode="latent", where=["n>=9"])
        assert {hit.document.metadata["n"] for hit in hits} <= {9, 10, 11}
        assert len(hits) == 5
        assert [one.id for one in index.documents(where=["n<2"], limit=1, offset=1)] == ["d1"]
        assert index.delete(["d0", "unknown"], where=["n>=9"]) == 4
        assert (len(index), index.n_chunks) == (8, 16)
        [hits] = index.search(["q"], query, k=99, mode="latent")
        assert {hit.document.id for hit in hits} == {f"d{i}" for i in range(1, 9)}
        with pytest.raises(ConfigError, match="cannot be read"):
            index.delete(where=["nonsense"])
        with pytest.raises(DataError, match="chunk"):
            index.add([one_chunk(Document("e", ""), torch.randn(4, 8))])


def test_another_model_is_refused(opened):
    opened().close()
    with pytest.raises(IndexMismatch, match="width=8"):
        opened(LatentSpec("tiny", "abc", n_memory=4, width=9, doc_max_length=32, score="late"))


def test_there_must_be_one_to_open_without_a_model(opened):
    with pytest.raises(FormatError, match="there is no index"):
        opened(None)
