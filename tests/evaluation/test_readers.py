"""Readers and text compressors: what is read, and what it is said to cost."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from tiny import make_tokenizer

from openclara import Clara, Document
from openclara.data.tokenizer import TextTokenizer
from openclara.errors import ModelError
from openclara.evaluation.models import LatentStore
from openclara.evaluation.readers import Asked, ClosedReader, LatentReader, TextReader
from openclara.evaluation.shortening import BestSentences, Cut, LlmLingua
from openclara.model.generator import Decoding

pytest.importorskip("bm25s")

TOKENIZER = TextTokenizer(make_tokenizer())
DECODING = Decoding(max_new_tokens=5)
DOCUMENTS = (
    Document(id="a", text="The opera house is by Utzon. It stands in Sydney.", title="Opera"),
    Document(id="b", text="A river runs. The train leaves at nine. Nobody came."),
)
ASKED = [
    Asked("Who designed the opera house?", DOCUMENTS),
    Asked("When does the train leave?", DOCUMENTS[1:]),
]


@pytest.fixture(scope="module")
def clara(tiny_model):
    return Clara.load(str(tiny_model), device="cpu", precision="fp32")


def count(text):
    return len(TOKENIZER.encode([text])[0])


def test_text_is_read_as_asking_reads_it(clara):
    readings = TextReader(clara, role="generator", decoding=DECODING).read(ASKED)
    for asked, reading in zip(ASKED, readings, strict=True):
        answer = clara.ask(
            asked.question, documents=asked.documents, context="text", decoding=DECODING
        )
        assert (reading.text, reading.prompt_tokens) == (answer.text, answer.usage.prompt_tokens)
        assert reading.text_tokens == reading.prompt_tokens
    assert readings[1].stored_bytes == len(DOCUMENTS[1].text)


def test_latents_are_read_from_the_store(clara, tmp_path):
    store = LatentStore(
        clara, tmp_path, fingerprint="f" * 64, n_memory=4, on_compressed=lambda n: None
    )
    reader = LatentReader(clara, store, n_memory=2, decoding=DECODING)
    reader.prepare(DOCUMENTS)
    readings = reader.read(ASKED)
    for asked, reading in zip(ASKED, readings, strict=True):
        hits = store.hits(asked.documents, n_memory=2)
        stretches = [hit for own in hits for hit in own]
        (answer,) = clara.answer([asked.question], [stretches], decoding=DECODING)
        assert reading.text == answer.text
        assert reading.stored_bytes == len(stretches) * 2 * 32 * 2
        assert reading.text_tokens == clara.text_prompt_tokens(asked.question, stretches)
    store.close()


def test_closed_book_reads_nothing(clara):
    (reading, _) = ClosedReader(clara, role=None, decoding=DECODING).read(ASKED)
    assert reading.stored_bytes == reading.text_tokens == 0
    assert reading.prompt_tokens < clara.text_prompt_tokens(ASKED[0].question, [])  # no background


@pytest.mark.parametrize("n_tokens", [1, 3, 8, 1000])
def test_cut_keeps_the_first_tokens(n_tokens):
    shortened = Cut(TOKENIZER, n_tokens).shorten("?", DOCUMENTS)
    for before, after in zip(DOCUMENTS, shortened, strict=True):
        assert count(after.title) + count(after.text) <= n_tokens
        whole = f"{before.title}{before.text}"
        assert whole.startswith(f"{after.title}{after.text}")
        assert (n_tokens == 1000) == (after == before)


def test_the_best_sentences_within_the_budget_in_the_order_of_the_text():
    question = "When does the train leave, and who designed the house by Utzon?"
    kept = BestSentences(TOKENIZER, 26).shorten(question, DOCUMENTS)
    text = " ".join(document.text for document in kept)
    assert sum(count(document.text) for document in kept) <= 52
    assert "Utzon" in text
    assert "nine" in text
    assert text.index("Utzon") < text.index("nine")


def test_a_budget_below_every_sentence_cuts_the_best_one():
    (kept,) = BestSentences(TOKENIZER, 2).shorten("train", DOCUMENTS)
    assert "The train leaves at nine.".startswith(kept.text)
    assert 0 < count(kept.text) <= 4


def test_llmlingua_through_its_package(monkeypatch):
    """Against a stand-in that checks how it is called: its model is gigabytes."""
    calls = []

    class Stand:
        def __init__(self, model_name, *, use_llmlingua2):
            assert use_llmlingua2
            calls.append(model_name)

        def compress_prompt_llmlingua2(self, context, *, rate):
            calls.append(rate)
            return {"compressed_prompt_list": [text[: int(rate * len(text))] for text in context]}

    module = SimpleNamespace(PromptCompressor=Stand, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "llmlingua", module)
    lingua = LlmLingua("folder", TOKENIZER, 8)
    shortened = lingua.shorten("?", DOCUMENTS)
    tokens = sum(count(document.text) for document in DOCUMENTS)
    assert calls == ["folder", pytest.approx(16 / tokens)]
    assert [document.id for document in shortened] == ["a", "b"]
    with pytest.raises(ModelError, match="name a folder or hub id"):
        LlmLingua(None, TOKENIZER, 8)


def test_llmlingua_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "llmlingua", None)
    with pytest.raises(ModelError, match="pip install llmlingua"):
        LlmLingua("folder", TOKENIZER, 8)
