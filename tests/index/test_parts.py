"""Parts of an index: what goes in comes out, whole or not at all, and joins in order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openclara.errors import DataError, FormatError, IndexMismatch
from openclara.index import LatentIndex
from openclara.index.parts import (
    PartFolder,
    packed,
    packed_documents,
    unpacked,
    unpacked_documents,
)
from openclara.types import Chunk, CompressedDocument, Document, LatentSpec

SPEC = LatentSpec("model", "f" * 64, n_memory=2, width=4, doc_max_length=32)

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
texts = st.text(st.characters(codec=None), max_size=20)
documents = st.builds(
    Document, texts, texts, texts, texts, st.dictionaries(texts, scalars | texts, max_size=3)
)


def compressed(document, n_chunks, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents_CMD = torch.randn(n_chunks, 2, 4, generator=generator).to(torch.bfloat16)
    chunks = tuple(Chunk(i, i + 1, 1) for i in range(n_chunks))
    return CompressedDocument(document, chunks, latents_CMD)


@given(st.lists(documents, max_size=4))
def test_documents_survive_the_way_to_a_worker(some):
    assert unpacked_documents(packed_documents(some)) == some


@given(st.lists(st.tuples(documents, st.integers(0, 3)), min_size=1, max_size=4))
def test_a_part_gives_back_what_it_was_made_of(some):
    items = [compressed(document, n, seed=n) for document, n in some]
    spec, found = unpacked(packed(SPEC, items))
    assert spec == SPEC
    assert len(found) == len(items)
    for one, other in zip(items, found, strict=True):
        assert (one.document, one.chunks) == (other.document, other.chunks)
        assert torch.equal(one.latents, other.latents)
        assert one.latents.dtype == other.latents.dtype


def document(name):
    return Document(name, f"The text of {name}.")


@pytest.mark.parametrize(
    "place", ["{folder}/parts", "file://{folder}/addressed", "memory://{folder}"]
)
def test_parts_join_in_their_order_and_once(tmp_path, place):
    parts = PartFolder(place.format(folder=tmp_path))
    for number in (1, 0, 2, 1):
        items = [compressed(document(f"{number}{letter}"), 2, seed=number) for letter in "ab"]
        parts.write(parts.name(number, b"content"), packed(SPEC, items))
    assert len(parts.names()) == 3
    with LatentIndex.open(tmp_path / "index", parts.spec()) as index:
        assert index.add(parts.documents()).added == 6
        assert [one.id for one in index.documents()] == ["0a", "0b", "1a", "1b", "2a", "2b"]
        again = index.add(parts.documents())
        assert (again.added, again.unchanged) == (0, 6)
    parts.remove(parts.names()[0])
    assert len(parts.names()) == 2
    parts.clear()
    with pytest.raises(DataError, match="holds no parts of an index"):
        parts.names()


def test_a_part_of_other_content_has_another_name(tmp_path):
    parts = PartFolder(str(tmp_path))
    assert parts.name(3, b"one") != parts.name(3, b"other")
    assert parts.name(3, b"one") == parts.name(3, b"one")
    assert parts.name(3, b"one") not in parts


def test_a_damaged_or_missing_part_is_named(tmp_path):
    parts = PartFolder(str(tmp_path / "parts"))
    name = parts.name(0, b"")
    parts.write(name, packed(SPEC, [compressed(document("a"), 1)])[:-3])
    with pytest.raises(FormatError, match=f"{name} in .* is damaged"):
        parts.spec()
    parts.remove(name)
    with pytest.raises(DataError, match="choose a folder that all workers see"):
        parts.read(name)


def test_parts_of_different_models_do_not_join(tmp_path):
    parts = PartFolder(str(tmp_path))
    other = LatentSpec("other", "0" * 64, n_memory=2, width=4, doc_max_length=32)
    for number, spec in enumerate((SPEC, other)):
        items = [compressed(document(str(number)), 1)]
        parts.write(parts.name(number, b""), packed(spec, items))
    with pytest.raises(IndexMismatch, match="different models, model and other among them"):
        list(parts.documents())


def test_nothing_half_written_is_left_where_writing_fails(tmp_path):
    taken = tmp_path / "parts"
    taken.write_text("a file")
    with pytest.raises(OSError, match="parts"):
        PartFolder(str(taken)).write("part-00000000-x.safetensors", b"")
    assert list(tmp_path.iterdir()) == [taken]
