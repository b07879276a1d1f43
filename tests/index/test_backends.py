"""One interface, two kinds of index: the same tests for a folder and for Milvus."""

import numpy as np
import pytest
import torch
from index_cases import compress, latents_of, one_chunk

from openclara.errors import ConfigError, DataError, FormatError, IndexMismatch
from openclara.index import LatentIndex
from openclara.types import Document, LatentSpec

SPEC = LatentSpec("tiny", "abc", n_memory=4, width=8, doc_max_length=32, score="late")


@pytest.fixture(params=["folder", "milvus"])
def opened(request, tmp_path, monkeypatch):
    """Opens the index of the test, made when first opened."""
    if request.param == "folder":
        monkeypatch.setattr("os.fsync", lambda _: None)
        return lambda spec=SPEC, **options: LatentIndex.open(tmp_path / "i", spec, **options)
    pytest.importorskip("milvus_lite")
    from openclara.index.milvus import MilvusIndex

    return lambda spec=SPEC, **options: MilvusIndex.open(tmp_path / "i.db", spec, **options)


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
