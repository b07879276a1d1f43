from dataclasses import replace

import pytest
import torch
from index_cases import SPEC, LookingAhead, Stream, compress, latents_of, one_chunk

from openclara.errors import DataError
from openclara.index import AddReport, LatentIndex, adding
from openclara.types import Chunk, CompressedDocument, Document


@pytest.fixture
def index(tmp_path):
    with LatentIndex.open(tmp_path / "i", SPEC) as index:
        yield index
        assert index.verify().problems == ()


def documents(n, text="the text of number {}"):
    return [Document(f"d{i}", text.format(i), title=f"T{i}", metadata={"n": i}) for i in range(n)]


def latent_ids(index, text, k=1):
    hits = index.search(["?"], latents_of(text)[None], k=k, mode="latent")[0]
    return [hit.document.id for hit in hits]


def test_what_is_added_is_found_and_given_back(index):
    document = Document("a", "ein Text", "Titel", "q.txt", {"x": 1, "y": None, "z": "é", "b": True})
    assert index.add([compress(document)]) == AddReport(added=1, chunks=1)
    assert index.get("a") == document
    assert index.get("a").metadata["b"] is True
    assert "a" in index
    assert "b" not in index
    assert 3 not in index
    assert latent_ids(index, "ein Text") == ["a"]


@pytest.mark.parametrize("text", ["a\0b and more", "\ud800 lone", "é" * 40, "😀 x" * 9, "", " \n"])
def test_any_text_comes_back_exactly(index, text):
    index.add([compress(Document("a", text))])
    assert index.get("a").text == text
    assert b"".join(
        hit.text.encode(errors="surrogatepass")
        for hit in sorted(
            index.search(["q"], torch.ones(1, 4, 8), k=50, mode="latent")[0], key=lambda h: h.start
        )
    ) == text.encode(errors="surrogatepass")
    assert index.verify().ok
    assert index.delete(["a"]) == 1


def test_adding_again_changes_nothing(index):
    items = [compress(document) for document in documents(5)]
    index.add(items)
    before = index.info()
    assert index.add(items) == AddReport(unchanged=5)
    assert index.info() == before


def test_a_new_text_replaces_the_old(index):
    index.add(map(compress, documents(3)))
    changed = Document("d1", "quite another text", title="T1", metadata={"n": 1})
    assert index.add([compress(changed)]) == AddReport(updated=1, chunks=2)
    assert len(index) == 3
    assert [d.id for d in index.documents()] == ["d0", "d1", "d2"]
    assert index.get("d1") == changed
    [hits] = index.search(["number quite"], None, k=9, mode="lexical")
    assert [hit.document.id for hit in hits if "quite" in hit.text] == ["d1"]
    assert {hit.document.id for hit in hits if "number" in hit.text} <= {"d0", "d2"}
    assert index.info().dead_rows == 2


def test_a_new_title_replaces_latents_and_words(index):
    index.add(map(compress, documents(3)))
    changed = replace(index.get("d1"), title="Zebra")
    stream = Stream([*documents(1), changed])
    assert index.add(stream) == AddReport(updated=1, unchanged=1, chunks=2)
    assert stream.compressed == ["d1"]
    assert index.get("d1") == changed
    assert index.info().dead_rows == 2
    [hits] = index.search(["zebra"], None, k=9, mode="lexical")
    assert {hit.document.id for hit in hits} == {"d1"}
    assert index.search(["T1"], None, k=9, mode="lexical") == [[]]


def test_latents_made_under_a_new_title_are_those_that_are_found(index):
    plain = Document("a", "some text")
    titled = replace(plain, title="Zebra")
    index.add([one_chunk(plain, latents_of("some text"))])
    index.add([one_chunk(titled, latents_of("Zebra some text"))])
    [[hit]] = index.search(["?"], latents_of("Zebra some text")[None], k=1, mode="latent")
    assert hit.document == titled
    assert hit.score == pytest.approx(1, abs=0.01)


def test_a_new_source_or_metadata_keeps_the_latents(index):
    index.add(map(compress, documents(3)))
    changed = replace(index.get("d1"), source="s", metadata={"n": 5})
    stream = Stream([*documents(1), changed])
    assert index.add(stream) == AddReport(updated=1, unchanged=1)
    assert stream.compressed == []
    assert index.get("d1") == changed
    assert index.info().dead_rows == 0
    assert [d.id for d in index.documents(where=["n=5"])] == ["d1"]
    renamed = replace(changed, source="t")
    assert index.add([one_chunk(renamed, latents_of("not needed"))]) == AddReport(updated=1)
    assert index.get("d1") == renamed
    assert latent_ids(index, "number 1") == ["d1"]


def test_only_what_is_new_or_changed_is_compressed(index):
    index.add(Stream(documents(6)))
    stream = Stream([*documents(4), Document("d4", "changed"), Document("d9", "new one")])
    assert index.add(stream) == AddReport(added=1, updated=1, unchanged=4, chunks=2)
    assert stream.compressed == ["d4", "d9"]


def test_holds_is_about_title_and_text(index):
    document = Document("a", "text", "title")
    assert not index.holds(document)
    index.add([compress(document)])
    assert index.holds(document)
    assert index.holds(replace(document, source="other", metadata={"x": 1}))
    assert not index.holds(replace(document, title="other"))
    assert not index.holds(replace(document, text="text "))
    assert not index.holds(replace(document, text="itle\ntext", title="t"))
    assert not index.holds(replace(document, id="b"))


@pytest.mark.parametrize("group", [1, 2, 64])
@pytest.mark.parametrize("kind", [list, Stream, LookingAhead])
def test_of_one_id_the_last_counts(index, monkeypatch, group, kind):
    monkeypatch.setattr(adding, "GROUP_DOCUMENTS", group)
    one, two = Document("a", "one"), Document("a", "two")
    stored = replace(one, title="stored")
    index.add([compress(stored)])
    for last in (
        [two, one],
        [one, two],
        [two, one, two, stored],
        [stored, replace(one, title="x")],
    ):
        index.add(list(Stream(last)) if kind is list else kind(last))
        assert index.get("a") == last[-1]
        assert latent_ids(index, last[-1].text) == ["a"]
        assert len(index) == index.n_chunks == 1


def test_progress_is_reported_after_each_commit(index, tmp_path, monkeypatch):
    monkeypatch.setattr(adding, "GROUP_DOCUMENTS", 4)
    seen = []

    def on_progress(report):
        with LatentIndex.open(tmp_path / "i") as other:
            seen.append((report.added, len(other)))

    report = index.add(map(compress, documents(10)), on_progress=on_progress)
    assert seen == [(4, 4), (8, 8), (10, 10)]
    assert report.added == 10


@pytest.mark.parametrize(
    ("name", "value", "commits"),
    # Two chunks of 4 x 8 float32 values are 256 bytes.
    [("GROUP_BYTES", 256, [1, 2, 3]), ("GROUP_BYTES", 300, [2, 3]), ("GROUP_S", 0.0, [1, 2, 3])],
)
def test_groups_end_by_size_and_by_time(index, monkeypatch, name, value, commits):
    monkeypatch.setattr(adding, name, value)
    reports = []
    index.add(map(compress, documents(3)), on_progress=reports.append)
    assert [report.added for report in reports] == commits


def test_what_came_before_an_error_in_the_stream_is_kept(index):
    def stream():
        yield from map(compress, documents(3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add(stream())
    assert len(index) == 3
    assert index.add(Stream(documents(4))) == AddReport(added=1, unchanged=3, chunks=2)


def spoiled(**changes):
    return replace(compress(Document("bad", "some text")), **changes)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (spoiled(latents=torch.ones(1, 4, 9)), "shape"),
        (spoiled(latents=torch.ones(1, 3, 8)), "shape"),
        (spoiled(latents=torch.ones(2, 4, 8)), "shape"),
        (spoiled(latents=torch.full((1, 4, 8), torch.inf)), "not finite"),
        (spoiled(latents=torch.full((1, 4, 8), 1e300, dtype=torch.float64)), "not finite"),
        (spoiled(chunks=(Chunk(0, 10, 1),)), "9 characters"),
        (spoiled(chunks=(Chunk(4, 4, 1),)), "a chunk lies inside"),
        (spoiled(chunks=(Chunk(-1, 4, 1),)), "a chunk lies inside"),
        (compress(Document("", "text")), "empty id"),
        (compress(Document("\ud800", "text")), "broken characters in its id"),
        (compress(Document("a", "text", source="x\udcff")), "broken characters in its source"),
        (compress(Document("a", "text", metadata={"x": float("nan")})), "metadata 'x'"),
        (compress(Document("a", "text", metadata={"x": [1]})), "metadata 'x'"),
        (compress(Document("a", "text", metadata={3: "x"})), "metadata 3"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_rest_is_kept(index, item, message):
    good = compress(Document("good", "fine text"))
    with pytest.raises(DataError, match=message):
        index.add([good, item])
    assert [document.id for document in index.documents()] == ["good"]


def test_an_unknown_document_is_said_to_be_unknown(index):
    with pytest.raises(DataError, match="no document 'zz'"):
        index.get("zz")
    with pytest.raises(DataError):
        index.get("\ud800")


@pytest.mark.parametrize("page", [2, 3, 256])
def test_documents_are_listed_in_pages(index, monkeypatch, page):
    monkeypatch.setattr("openclara.index.store.PAGE", page)
    index.add(map(compress, documents(7)))

    def listed(**options):
        return [document.metadata["n"] for document in index.documents(**options)]

    assert listed() == list(range(7))
    assert listed(limit=3) == [0, 1, 2]
    assert listed(limit=0) == []
    assert listed(offset=5) == [5, 6]
    assert listed(offset=9) == []
    assert listed(where=["n>=2"], offset=1, limit=2) == [3, 4]


def test_documents_are_deleted_by_id_and_by_filter(index):
    index.add(map(compress, documents(8)))
    assert index.delete(["d1", "d1", "zz"]) == 1
    assert index.delete(where=["n>=6"]) == 2
    assert index.delete(["d0"], where=["n=5"]) == 2
    assert index.delete() == index.delete([]) == 0
    assert [document.id for document in index.documents()] == ["d2", "d3", "d4"]
    assert {hit.document.id for hit in index.search(["number"], None, k=9, mode="lexical")[0]} == {
        "d2",
        "d3",
        "d4",
    }


def test_compacting_drops_dead_rows_and_changes_no_answer(index, monkeypatch):
    monkeypatch.setattr(adding, "GROUP_DOCUMENTS", 3)
    monkeypatch.setattr("openclara.index.shards.SHARD_BYTES", 10 * 64)
    index.add(map(compress, documents(20)))
    index.delete(f"d{i}" for i in range(0, 20, 3))
    query = torch.randn(2, 4, 8)
    before = index.search(["number 4", "text"], query, k=50)
    info = index.info()
    report = index.compact()
    assert (report.removed_rows, report.shards_before) == (info.dead_rows, info.shards) == (14, 7)
    after = index.info()
    assert (after.dead_rows, after.shards, after.chunks) == (0, 3, 26)
    assert report.freed_bytes == info.total_bytes - after.total_bytes
    assert index.search(["number 4", "text"], query, k=50) == before
    assert sorted(p.name for p in index.path.glob("latents*")) == [
        f"latents-{n:06d}.safetensors" for n in (8, 9, 10)
    ]
    assert index.compact().removed_rows == 0


def test_an_index_emptied_and_compacted_has_no_shards(index):
    index.add(map(compress, documents(3)))
    index.delete(where=["n>=0"])
    index.compact()
    assert (len(index), index.info().shards, list(index.path.glob("latents*"))) == (0, 0, [])
    index.add(map(compress, documents(1)))
    assert latent_ids(index, documents(1)[0].text[:12]) == ["d0"]


def test_many_small_shards_are_merged_while_adding(index, monkeypatch):
    monkeypatch.setattr(adding, "GROUP_DOCUMENTS", 1)
    index.add(map(compress, documents(40)))
    assert index.info().shards <= 17
    assert index.n_chunks == 80
    for i in (0, 17, 39):
        assert latent_ids(index, f"the text of number {i}"[:12])[0] == "d0"
        assert latent_ids(index, f"the text of number {i}"[12:]) == [f"d{i}"]


def test_two_thousand_documents(index):
    report = index.add(map(compress, documents(2000)))
    assert report == AddReport(added=2000, chunks=4000)
    info = index.info()
    assert (info.documents, info.chunks, info.bytes_per_chunk) == (2000, 4000, 64)
    # 32 groups, merged whenever there are more than 16 small shards.
    assert info.shards <= 17
    assert 4000 * 64 < info.latent_bytes < 4000 * 64 * 1.1
    assert latent_ids(index, "number 1234") == ["d1234"]
    assert index.add(Stream(documents(2000))) == AddReport(unchanged=2000)


def test_a_closed_index_says_so(tmp_path):
    index = LatentIndex.open(tmp_path / "c", SPEC)
    index.close()
    index.close()
    with pytest.raises(ValueError, match="is closed"):
        len(index)


def test_latents_without_chunks_are_no_chunks(index):
    empty = CompressedDocument(Document("a", " "), (), torch.empty(0, 4, 8))
    assert index.add([empty]) == AddReport(added=1)
    assert (len(index), index.n_chunks, index.info().shards) == (1, 0, 0)
    assert index.add([empty]) == AddReport(unchanged=1)
