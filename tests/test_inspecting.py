"""What is said of latents: words, places, shares, of fresh and of stored ones."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from tiny import anchored_memory, plain_lm

from openclara import Clara, Document, LatentIndex
from openclara.errors import ConfigError, DataError, IndexMismatch
from openclara.model.checkpoint import load_checkpoint, save_checkpoint
from openclara.pipeline.inspecting import inspect_document, inspect_question, inspect_stored

OPERA = Document("opera", "The opera house in Sydney was designed by Utzon, in 1973.", "Opera")
LONG = Document("long", "The river runs past the station. " * 12, "River")


@pytest.fixture(scope="module")
def clara(tiny_model):
    return Clara.load(str(tiny_model), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def anchored(tiny_model, tiny_base, tmp_path_factory):
    """The same model with anchored memory tokens."""
    words = plain_lm(tiny_base).get_input_embeddings().weight
    memory = anchored_memory(words, n_memory=8)
    given = load_checkpoint(tiny_model)
    folder = tmp_path_factory.mktemp("anchored")
    card = replace(given.card, memory="anchored", latent_gain=0.5)
    chosen = {"token_weight": memory.token_weight_V, "salience": memory.salience.state_dict()}
    save_checkpoint(folder, replace(given, card=card, **chosen))
    return Clara.load(str(folder), device="cpu", precision="fp32")


def test_every_stretch_of_a_document_is_looked_into(clara):
    found = inspect_document(clara, LONG, n_memory=3)
    assert len(found) == len(clara.chunk(LONG)) > 1
    latents = [hit.latents for hit in clara.read([LONG], n_memory=3)]
    for one, latents_MD in zip(found, latents, strict=True):
        assert one.text == f"River\n{LONG.text[one.start : one.end]}"
        assert [view.number for view in one.latents] == [0, 1, 2]
        norms = [float(latent.norm()) for latent in latents_MD]
        assert [view.norm for view in one.latents] == pytest.approx(norms, rel=1e-4)
        assert one.mean_norm == pytest.approx(sum(norms) / 3, rel=1e-4)
        unit = torch.nn.functional.normalize(latents_MD.float(), dim=-1)
        off = (unit @ unit.T)[[0, 0, 1], [1, 2, 2]].mean()
        assert one.mean_cosine == pytest.approx(float(off), abs=1e-4)


def test_a_question_is_read_by_the_reasoner(clara, other_compressor):
    found = inspect_question(clara, "Who designed it?", n_memory=4)
    expected = clara.reason(["Who designed it?"], n_memory=4)[0].norm(dim=1).tolist()
    assert [view.norm for view in found.latents] == pytest.approx(expected, rel=1e-4)
    assert found.role == "reasoner"
    assert inspect_question(other_compressor, "Who?").role == "compressor"
    long = inspect_question(clara, "Where is the river, and who built the station? " * 9)
    assert long.n_tokens <= clara.card.doc_max_length
    assert long.document.text[long.start :] == long.text


@pytest.fixture
def other_compressor(tiny_base, tmp_path):
    from tiny import make_checkpoint

    return Clara.load(str(make_checkpoint(tmp_path / "run", tiny_base, with_reasoner=False)))


@pytest.mark.parametrize("which", ["clara", "anchored"])
def test_places_point_into_what_was_read(which, request):
    (one,) = inspect_document(request.getfixturevalue(which), OPERA, n_memory=8)
    for view in one.latents:
        for place in (view.nearest, view.carried):
            if place is not None:
                assert place.text == one.text[place.start : place.end] != ""
        assert -1 <= view.cosine <= 1


def test_learned_memory_carries_nothing(clara):
    (one,) = inspect_document(clara, OPERA)
    assert one.carried is None
    assert {view.carried for view in one.latents} == {None}
    assert one.order == tuple(range(4))


def test_anchored_memory_carries_tokens_of_the_text(anchored):
    (one,) = inspect_document(anchored, OPERA, n_memory=8)
    starts = [one.latents[number].carried.start for number in one.order]
    assert starts == sorted(set(starts))
    assert all(one.text[c.start : c.end] == c.text for c in (v.carried for v in one.latents))
    assert all(view.norm != view.state_norm for view in one.latents)
    assert 0 < one.carried < 1


def test_words_hold_a_letter_and_stand_once(clara):
    (one,) = inspect_document(clara, OPERA, top=3)
    for view in one.latents:
        assert 0 < len(view.words) <= 3
        assert all(re.search(r"\w", word.text) for word in view.words)
        assert len({word.text.casefold() for word in view.words}) == len(view.words)
        chances = [word.probability for word in view.words]
        assert chances == sorted(chances, reverse=True)


def test_the_share_of_recovered_words(clara):
    """All words are recovered once every token is shown, fewer with fewer."""
    shares = [inspect_document(clara, OPERA, n_memory=8, top=top)[0] for top in (1, 10, 400)]
    assert [one.n_words for one in shares] == [10] * 3
    assert shares[0].recovered <= shares[1].recovered < shares[2].recovered == 1.0
    (one,) = inspect_document(clara, OPERA, n_memory=8, top=10)
    shown = {word.text.casefold() for view in one.latents for word in view.words}
    by_hand = 0
    words = {word.casefold() for word in re.findall(r"\w+", one.text)}
    spans = {m.group().casefold(): m.span() for m in re.finditer(r"\w+", one.text)}
    (ids,), (offsets,) = clara.tokenizer.encode([one.text]), clara.tokenizer.offsets([one.text])
    for word in words:
        start, end = spans[word]
        pieces = [
            clara.tokenizer.decode([i]).strip().casefold()
            for i, (a, b) in zip(ids, offsets, strict=True)
            if max(a, start) < min(b, end)
        ]
        by_hand += word in shown or all(piece in shown for piece in pieces)
    assert one.recovered == pytest.approx(by_hand / len(words))


def test_stored_latents_are_those_of_the_index(anchored, tmp_path):
    with LatentIndex.open(tmp_path / "i", anchored.latent_spec, quantization="int8") as index:
        index.add(anchored.compress([OPERA, LONG]))
        found = inspect_stored(anchored, index, ["long", "opera"], n_memory=2)
        hits = [hit for own in index.hits(["long", "opera"], n_memory=2) for hit in own]
        assert len(found) == len(hits) > 2
        for one, hit in zip(found, hits, strict=True):
            expected = hit.latents.float().norm(dim=1).tolist()
            assert [view.norm for view in one.latents] == pytest.approx(expected, rel=1e-5)
            assert (one.document.id, one.start, one.end) == (hit.document.id, hit.start, hit.end)
        fresh = [
            view.words[0].text for one in inspect_document(anchored, OPERA) for view in one.latents
        ]
        stored = [
            view.words[0].text for view in inspect_stored(anchored, index, ["opera"])[0].latents
        ]
        assert sum(a == b for a, b in zip(fresh, stored, strict=True)) >= 3
        with pytest.raises(DataError, match="no document 'none'"):
            inspect_stored(anchored, index, ["none"])
        with pytest.raises(ConfigError, match="keeps 4"):
            inspect_stored(anchored, index, ["opera"], n_memory=5)


def test_what_does_not_fit_is_refused(clara, anchored, tmp_path):
    with pytest.raises(DataError, match="the question is empty"):
        inspect_question(clara, " ")
    with pytest.raises(ConfigError, match="up to 8"):
        inspect_document(clara, OPERA, n_memory=9)
    assert inspect_document(clara, Document("blank", " \n")) == []
    with (
        LatentIndex.open(tmp_path / "i", anchored.latent_spec) as index,
        pytest.raises(IndexMismatch, match="fingerprint"),
    ):
        inspect_stored(clara, index, [])
