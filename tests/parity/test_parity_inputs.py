"""Token ids, masks, labels and prompts: exactly those of the published code."""

from __future__ import annotations

import json

import pytest
import torch
from recorded import FOLDER, STAGES, Recording, requires_recordings
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from openclara import Document
from openclara.data.batches import text_batch
from openclara.data.published import (
    PARAPHRASES,
    SYSTEM_PARAPHRASE,
    SYSTEM_QA,
    SYSTEM_QUESTIONS,
    USER_QA,
    USER_QUESTIONS,
    PublishedTokenizer,
    PublishedWording,
    blocks,
    pairs_text,
)
from openclara.data.tokenizer import ENC, SEP, SLOT

pytestmark = requires_recordings


def framed(tokenizer, texts, n_memory):
    """Rows of our encoder input without padding."""
    batch = text_batch(
        tokenizer.encode(texts), n_memory=n_memory, bos=tokenizer.bos, eos=tokenizer.eos
    )
    lengths = (batch.text_lengths_R + n_memory).tolist()
    return [row[:length] for row, length in zip(batch.ids_RT.tolist(), lengths, strict=True)]


@pytest.mark.parametrize("precision", ["fp32"])
def test_documents(recording):
    clara, docs = recording.clara, recording.record["docs"]
    limit, n_memory = clara.card.doc_max_length, clara.latent_spec.n_memory
    theirs = recording.rows("enc/")
    fits = [len(ids) <= limit for ids in clara.tokenizer.encode(docs)]
    assert 0 < sum(fits) < len(docs)
    for text, row, fit, ours in zip(
        docs, theirs, fits, framed(clara.tokenizer, docs, n_memory), strict=True
    ):
        if fit:
            assert ours == row
            continue
        # On purpose: there the text is cut after limit + 1 tokens and loses its end of sequence,
        # here it is read whole, in several stretches.
        kept = row[:-n_memory]
        assert ours[: len(kept)] == kept
        assert len(kept) == limit + 3
        assert clara.tokenizer.eos not in kept
        chunks = clara.chunk(Document("", text))
        assert len(chunks) > 1
        assert all(chunk.n_tokens <= limit for chunk in chunks)
        read = "".join(text[c.start : c.end] for c in chunks)
        assert "".join(read.split()) == "".join(text.split())


def test_masks_cover_what_is_not_padding(recording):
    # They pad on the left to a fixed length and mask it; we pad on the right to the longest.
    mask_RT = recording.tensors["enc/attention_mask"]
    batch = recording.text_batch("enc/")
    assert (
        mask_RT.sum(1).tolist()
        == (batch.text_lengths_R + batch.memory_positions_RM.shape[1]).tolist()
    )
    assert bool((mask_RT.diff(dim=1) >= 0).all())


def test_questions(joint):
    clara = joint.clara
    ours = framed(clara.tokenizer, joint.record["questions"], clara.latent_spec.n_memory)
    assert ours == joint.rows("query/")
    trained = joint.tensors["query/input_ids_train_padding"].tolist()
    for row, long in zip(ours, trained, strict=True):
        assert [joint.own_id(i, memory=None) for i in long[-len(row) :]] == row


@pytest.mark.parametrize("precision", ["fp32"])
def test_recorded_prompts(recording):
    """All prompts written down in the record: by kind, for one document and for two."""
    wording, record = recording.clara.wording, recording.record
    n_memory = recording.clara.latent_spec.n_memory
    seen = 0
    for name, recorded in record["prompts"].items():
        kind, size, which = name.split("_", 2)
        n_documents = int(size[1:])
        docs = blocks(n_documents, n_memory)
        if kind == "qagen":
            texts = record["batches"]["qa"]
            at = int(which)
            pairs = list(zip(texts["questions"][at], texts["answers"][at], strict=True))
            ids, n_prompt = wording.with_answer(
                SYSTEM_QUESTIONS, USER_QUESTIONS, docs=docs, question="", answer=pairs_text(pairs)
            )
            assert wording.questions(n_documents=n_documents, n_memory=n_memory) == ids[:n_prompt]
        elif kind == "paraphrase":
            template = int(which.removeprefix("template"))
            prompt = wording.paraphrase(
                n_documents=n_documents, n_memory=n_memory, template=template
            )
            assert list(prompt) == _ids(recording, recorded["ids"])
            seen += 1
            continue
        else:
            question = record["questions"][int(which.removeprefix("q"))]
            prompt = wording.from_latents(question, n_documents=n_documents, n_memory=n_memory)
            assert list(prompt) == _ids(recording, recorded["ids"])
            assert len(prompt) == recorded["prompt_len"]
            answers = record["batches"]["qa"]["answers"]
            answer = answers[int(which.removeprefix("q"))]
            ids, n_prompt = wording.with_answer(
                SYSTEM_QA, USER_QA, docs=docs, question=question, answer=answer
            )
        assert n_prompt == recorded["prompt_len"]
        if "with_answer_ids" in recorded:
            assert list(ids) == _ids(recording, recorded["with_answer_ids"])
        seen += 1
    assert seen >= 6


def _ids(recording: Recording, ids: list[int]) -> list[int]:
    return [recording.own_id(i, memory=SLOT) for i in ids]


BATCHES = {
    "stage1": ("batch_qa", "batch_qa_k1", "batch_paraphrase"),
    "stage1_2": ("batch_qa",),
    "stage2": ("batch_qa",),
}


@pytest.mark.parametrize("precision", ["fp32"])
def test_training_batches_and_labels(recording, stage):
    for batch in BATCHES[stage]:
        theirs = recording.rows(f"{batch}/dec_", memory=SLOT)
        ours = recording.with_answers(batch)
        assert [list(ids) for ids, _ in ours] == theirs
        labels_BT = recording.tensors[f"{batch}/labels"]
        for (ids, n_prompt), labels in zip(ours, labels_BT.tolist(), strict=True):
            assert [label for label in labels if label >= 0] == list(ids[n_prompt:])
        built = recording.prompt_batch(batch)
        assert int(built.target_mask_BT.sum()) == int((labels_BT >= 0).sum())


def test_a_vocabulary_of_a_llama_type():
    """A leading space behind every control token, as Mistral's tokenizer has it."""
    folder = FOLDER / "extras"
    tokenizer = PublishedTokenizer(PreTrainedTokenizerFast.from_pretrained(folder / "spm_base"))
    wording = PublishedWording(tokenizer)
    fixture = json.loads((folder / "spm_tokenization.json").read_text())
    tensors = load_file(folder / "spm_tokenization.safetensors")
    n_vocabulary, n_memory = fixture["vocab_base"], 8

    def own(ids):
        memory = range(n_vocabulary, n_vocabulary + n_memory)
        special = {n_vocabulary + n_memory + 1: ENC, n_vocabulary + n_memory + 2: SEP}
        return [SLOT if i in memory else special.get(i, i) for i in ids]

    for question, ids in zip(fixture["questions"], fixture["prompt_ids"], strict=True):
        assert list(wording.from_latents(question, n_documents=2, n_memory=8)) == own(ids)
    for name, texts in (("enc", fixture["docs"]), ("query", fixture["questions"])):
        mask = tensors[f"{name}/attention_mask"].bool()
        for text, ids, kept in zip(texts, tensors[f"{name}/input_ids"], mask, strict=True):
            cut = own(ids[kept].tolist())[:-n_memory]
            whole = [ENC, tokenizer.bos, *tokenizer.encode([text])[0], tokenizer.eos]
            assert whole[: len(cut)] == cut
    for stage, batch, docs_per_row in (
        ("stage1", "batch_qa", 2), ("stage1", "batch_paraphrase", 2),
        ("stage1_2", "batch_qa", 2), ("stage2", "batch_qa", 2),
    ):  # fmt: skip
        name = f"{stage}/{batch}"
        texts = json.loads((FOLDER / stage / "record_fp32.json").read_text())["batches"][
            batch.removeprefix("batch_")
        ]
        for row, ids in enumerate(tensors[f"{name}/dec_input_ids"]):
            kept = tensors[f"{name}/dec_attention_mask"][row].bool()
            labels = tensors[f"{name}/labels"][row]
            docs = blocks(docs_per_row, n_memory)
            question, answer = texts["questions"][row], texts["answers"][row]
            if batch == "batch_paraphrase":
                choices = [(SYSTEM_PARAPHRASE, user, "", answer[0]) for user in PARAPHRASES]
            elif stage == "stage1":
                pairs = pairs_text(list(zip(question, answer, strict=True)))
                choices = [(SYSTEM_QUESTIONS, USER_QUESTIONS, "", pairs)]
            else:
                choices = [(SYSTEM_QA, USER_QA, question, answer)]
            made = [
                wording.with_answer(system, user, docs=docs, question=q, answer=a)
                for system, user, q, a in choices
            ]
            wanted = own(ids[kept].tolist())
            (found,) = [one for one in made if list(one[0]) == wanted]
            assert list(found[0][found[1] :]) == labels[labels >= 0].tolist()


def test_a_template_without_a_system_turn():
    fixture = json.loads((FOLDER / "extras" / "no_system_role.json").read_text())
    inner = PreTrainedTokenizerFast.from_pretrained(FOLDER / "base")
    inner.chat_template = fixture["chat_template"]
    tokenizer = PublishedTokenizer(inner)
    wording = PublishedWording(tokenizer)
    question, docs = "Who built the lighthouse at Cape Arran?", blocks(2, 8)
    block = "".join(f"<MEM{i}>" for i in range(8)) + "<SEP>"

    def tokenised(text):
        pieces = text.replace(block * 2, "\ue001").split("\ue001")
        return tokenizer.compose([pieces[0], docs, *pieces[1:]])

    recorded = fixture["prompts"]
    prompt = wording.from_latents(question, n_documents=2, n_memory=8)
    assert prompt == tokenised(recorded["standard_no_answer"])
    n_recorded, text = recorded["standard"]
    ids, n_prompt = wording.with_answer(
        SYSTEM_QA, USER_QA, docs=docs, question=question, answer="Thomas Bell"
    )
    assert ids == tokenised(text)
    assert n_prompt == n_recorded == len(prompt)


@pytest.mark.parametrize("stage", STAGES[-1:])
@pytest.mark.parametrize("precision", ["fp32"])
def test_control_tokens_typed_by_a_user_stay_text(recording):
    """On purpose: there `</s>` or `<MEM0>` in a document or question is read as the token."""
    clara = recording.clara
    for text in ("a </s> b", "a <s> b", "a <MEM0> b", "a <SEP> b", "<ENC>", "[/INST]"):
        ids = clara.tokenizer.encode([text])[0]
        prompt = clara.wording.from_latents(text, n_documents=1, n_memory=8)
        assert not {clara.tokenizer.bos, clara.tokenizer.eos} & set(ids)
        assert clara.tokenizer.decode(ids) == text
        assert prompt.count(clara.tokenizer.bos) == 1
        assert clara.tokenizer.eos not in prompt
        assert prompt.count(SLOT) == 8
        assert [i for i in prompt if i < 0] == [SLOT] * 8 + [SEP]


def test_a_long_question_keeps_the_end_of_the_prompt():
    """On purpose: there a prompt is cut to 1024 tokens, its end first."""
    tokenizer = PublishedTokenizer(PreTrainedTokenizerFast.from_pretrained(FOLDER / "base"))
    prompt = PublishedWording(tokenizer).from_latents("word " * 2000, n_documents=1, n_memory=8)
    assert len(prompt) > 1024
    assert tokenizer.decode(prompt[-8:]).endswith("[/INST]")
    assert torch.tensor(prompt).eq(SLOT).sum() == 8
