"""What only Milvus has to promise: interrupted writes are not read, errors are sentences."""

import logging
from dataclasses import replace

import pytest
from index_cases import Stream
from test_backends import SPEC, compressed, document

from openclara.errors import ConfigError, FormatError, IndexBusy, OpenClaraError

pytest.importorskip("milvus_lite")

from openclara.index import milvus_connection
from openclara.index.milvus import MilvusIndex
from openclara.index.milvus_collections import Collections


class Kill(BaseException):
    pass


@pytest.fixture
def logged(caplog):
    """What the packages of Milvus would write to standard error; grpc's own log goes nowhere."""
    import pymilvus  # noqa: F401 - it sets its logger up

    logger = logging.getLogger("pymilvus")  # gives nothing on to the root
    logger.addHandler(caplog.handler)
    yield lambda: [one for one in caplog.records if not one.name.startswith("grpc.")]
    logger.removeHandler(caplog.handler)


def test_documents_of_an_interrupted_write_are_as_before(tmp_path, monkeypatch):
    from index_cases import compress, latents_of

    with MilvusIndex.open(tmp_path / "m.db", SPEC) as index:
        index.add(compressed(range(3)))
        changed = [compress(document(1, "something new {}"), SPEC), *compressed([7])]

        def die(self, latents, pieces, rows, real=Collections.put):
            real(self, latents, pieces, [])  # all but the rows that say so
            raise Kill

        with monkeypatch.context() as patch:
            patch.setattr(Collections, "put", die)
            with pytest.raises(Kill):
                index.add(changed)
    with MilvusIndex.open(tmp_path / "m.db") as index:
        assert [one.text for one in index.documents()] == [document(i).text for i in range(3)]
        [hits] = index.search(["q"], latents_of("x", SPEC)[None], k=99, mode="latent")
        assert {(h.document.id, h.text) for h in hits} == {
            (f"d{i}", document(i).text[start : start + 12]) for i in range(3) for start in (0, 12)
        }
        assert index.add(changed).added == 1
        assert index.get("d1").text == "something new 1"


def test_words_are_not_searched_and_one_sentence_says_so(tmp_path):
    with MilvusIndex.open(tmp_path / "m.db", SPEC) as index:
        index.add(compressed([1]))
        with pytest.raises(ConfigError, match="no word index: use mode latent, not hybrid"):
            index.search(["q"], None, k=1, mode="hybrid")


def test_two_names_are_two_indexes(tmp_path):
    with MilvusIndex.open(tmp_path / "m.db", SPEC, name="one") as index:
        index.add(compressed([1]))
    with MilvusIndex.open(tmp_path / "m.db", SPEC, name="two") as index:
        assert len(index) == 0


def test_looking_for_an_index_makes_none(tmp_path):
    path = tmp_path / "sub" / "m.db"
    assert not MilvusIndex.exists(path)
    with pytest.raises(FormatError, match=f"there is no index 'openclara' at milvus:{path}"):
        MilvusIndex.open(path)
    assert list(tmp_path.iterdir()) == []
    with MilvusIndex.open(path, SPEC, name="one"):
        assert MilvusIndex.exists(path, name="one")
        assert not MilvusIndex.exists(path)
        with pytest.raises(FormatError, match="there is no index 'openclara'"):
            MilvusIndex.open(path)
        assert MilvusIndex.exists(path, name="one")


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    MilvusIndex.open("~/m.db", SPEC).close()
    assert (tmp_path / "m.db").exists()
    assert MilvusIndex.exists("~/m.db")


@pytest.mark.parametrize("address", ["", "docs", "docs.sqlite", "localhost:19530"])
def test_an_address_is_a_path_with_a_suffix_or_a_uri(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (lambda: MilvusIndex.exists(address), lambda: MilvusIndex.open(address, SPEC)):
        with pytest.raises(ConfigError, match=r"write a path that ends in \.db"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://localhost:port"])
def test_a_server_that_is_not_there(address, logged):
    with pytest.raises(OpenClaraError, match=f"Milvus at {address} cannot be reached .*, or start"):
        MilvusIndex.exists(address)
    assert logged() == []


@pytest.mark.parametrize("missing", ["pymilvus", "milvus_lite"])
def test_packages_that_are_missing(missing, tmp_path, monkeypatch):
    real = milvus_connection.find_spec
    monkeypatch.setattr(
        milvus_connection, "find_spec", lambda name: None if name == missing else real(name)
    )
    with pytest.raises(OpenClaraError, match=r"pip install 'openclara\[milvus\]'"):
        MilvusIndex.open(tmp_path / "m.db", SPEC)
    assert list(tmp_path.iterdir()) == []


def test_embedded_milvus_that_another_process_has_open(tmp_path, logged):
    from milvus_lite.db import MilvusLite

    other = MilvusLite(str(tmp_path / "m.db"))
    try:
        with pytest.raises(IndexBusy, match=r"another process has the embedded Milvus .* open"):
            MilvusIndex.open(tmp_path / "m.db", SPEC)
    finally:
        other.close()
    MilvusIndex.open(tmp_path / "m.db", SPEC).close()
    assert logged() == []


def test_a_file_that_is_no_milvus(tmp_path, logged):
    (tmp_path / "m.db").write_text("something else", encoding="utf-8")
    with pytest.raises(OpenClaraError, match=r"cannot be opened \(.*File exists.*another path"):
        MilvusIndex.open(tmp_path / "m.db")
    assert logged() == []


def test_milvus_that_fails_later(tmp_path, logged):
    with MilvusIndex.open(tmp_path / "m.db", SPEC) as index:
        index.add(compressed([1]))
        assert len(index) == 1
        assert logged() == []
        index._rows._client.drop_collection("openclara_documents")
        with pytest.raises(OpenClaraError, match=r"Milvus at .* failed \(.*\): see that it runs"):
            index.get("d1")
        with pytest.raises(OpenClaraError, match="failed"):
            len(index)
    assert logged() == []


def test_an_index_whose_making_was_interrupted(tmp_path):
    with MilvusIndex.open(tmp_path / "m.db", SPEC) as index:
        index._rows._client.delete("openclara_pieces", ids=["manifest"])
    for spec in (SPEC, None):
        with pytest.raises(FormatError, match="its making was interrupted: drop the collections"):
            MilvusIndex.open(tmp_path / "m.db", spec)


def test_a_document_that_another_process_removed_meanwhile(tmp_path):
    class Removing(Stream):
        def skipping(self, unchanged):
            yield from super().skipping(unchanged)
            index.delete(["d1"])

    with MilvusIndex.open(tmp_path / "m.db", SPEC) as index:
        index.add(compressed([1]))
        with pytest.raises(IndexBusy, match="another process changed document 'd1'"):
            index.add(Removing([replace(document(1), source="elsewhere")]))
