"""What only Milvus has to promise: an interrupted write is not read."""

import pytest
from test_backends import SPEC, compressed, document

from openclara.errors import ConfigError

pytest.importorskip("milvus_lite")

from openclara.index.milvus import MilvusIndex
from openclara.index.milvus_collections import Collections


class Kill(BaseException):
    pass


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
