"""Text stays text: no control token comes out of what a user wrote."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CHAT_TEMPLATE, CONTROL, make_tokenizer

from openclara.data import prompts
from openclara.data.batches import prompt_batch, text_batch
from openclara.data.tokenizer import ENC, MEM_0, SEP, SLOT, TextTokenizer
from openclara.errors import ModelError

TOKENIZER = TextTokenizer(make_tokenizer())
MARKS = ("<MEM0>", "<SEP>", "<ENC>", prompts.BACKGROUND_MARK, prompts.ANSWER_MARK)

hostile = st.lists(
    st.sampled_from([*CONTROL, *MARKS, "<|im_start|>assistant\n", "<|im_", "end|>"]) | st.text(),
    max_size=6,
).map("".join)


def test_control_tokens_are_recognised_by_the_bare_tokenizer():
    """Otherwise the tests below could not fail."""
    ids = TOKENIZER.inner("a<|im_end|>b", add_special_tokens=False)["input_ids"]
    assert TOKENIZER.eos in ids


@given(hostile)
@settings(max_examples=150)
def test_no_text_becomes_a_control_token_and_all_of_it_survives(text):
    (ids,) = TOKENIZER.encode([text])
    assert not set(ids) & set(TOKENIZER.inner.all_special_ids)
    assert all(i >= 0 for i in ids)
    assert TOKENIZER.decode(ids) == text


@given(hostile)
@settings(max_examples=100)
def test_there_is_one_span_for_each_token_and_they_cover_the_text(text):
    (ids,), (spans,) = TOKENIZER.encode([text]), TOKENIZER.offsets([text])
    assert len(spans) == len(ids)
    assert {at for start, end in spans for at in range(start, end)} == set(range(len(text)))


@given(st.lists(hostile, max_size=4))
@settings(max_examples=50)
def test_texts_are_tokenised_each_by_itself(texts):
    assert TOKENIZER.encode(texts) == [TOKENIZER.encode([text])[0] for text in texts]


def test_a_lone_surrogate_is_replaced_and_keeps_the_spans():
    (ids,), (spans,) = TOKENIZER.encode(["a\ud800b"]), TOKENIZER.offsets(["a\ud800b"])
    assert TOKENIZER.decode(ids) == "a\ufffdb"
    assert spans[-1] == (2, 3)


def test_decoding_leaves_control_tokens_out_and_spaces_alone():
    ids = TOKENIZER.encode(["it 's , so ."])[0]
    assert TOKENIZER.decode([1, *ids, 2]) == "it 's , so ."


# ---- the chat template, taken apart ----


def rendered(*messages, prompt=False):
    roles = [{"role": role, "content": content} for role, content in messages]
    return TOKENIZER.inner.apply_chat_template(roles, tokenize=False, add_generation_prompt=prompt)


def plain(ids):
    """Text of ids, control tokens shown; latents and marks left out."""
    return TOKENIZER.inner.decode([i for i in ids if i >= 0], skip_special_tokens=False)


def test_a_prompt_is_what_the_template_renders():
    chat = TOKENIZER.chat
    question = TOKENIZER.encode(["Who designed it?"])[0]
    ids = (*chat.before_background, *chat.background(2, 3), *chat.question(question))
    user = "Background:\n\n\nQuestion:\nWho designed it?"
    expected = rendered(("system", prompts.SYSTEM), ("user", user), prompt=True)
    assert plain(ids) == expected
    slots = [i for i in ids if i < 0]
    assert slots == [SLOT, SLOT, SLOT, SEP] * 2
    closed = rendered(
        ("system", prompts.SYSTEM_CLOSED), ("user", "Question:\nWho designed it?"), prompt=True
    )
    assert plain(chat.question(question, closed=True)) == closed


def test_two_turns_are_what_the_template_renders():
    chat = TOKENIZER.chat
    a, b, one, two = TOKENIZER.encode(["a?", "b?", "One", "Two"])
    turn = (*chat.before_answer, *one, *chat.after_answer, *chat.before_next_question)
    ids = (*chat.before_background, *chat.before_question, *a, *turn, *b, *chat.before_answer)
    expected = rendered(
        ("system", prompts.SYSTEM),
        ("user", "Background:\n\n\nQuestion:\na?"),
        ("assistant", "One"),
        ("user", "Question:\nb?"),
        ("assistant", "Two"),
    )
    assert plain((*ids, *two, *chat.after_answer)) == expected


def test_an_answer_ends_at_the_end_of_turn():
    assert TOKENIZER.chat.after_answer[0] == TOKENIZER.inner.convert_tokens_to_ids("<|im_end|>")
    assert TOKENIZER.stop_ids == {2}
    other = make_tokenizer()
    other.eos_token = "<|endoftext|>"
    assert TextTokenizer(other).stop_ids == {0, 2}


def test_a_template_that_ends_no_turn_leaves_it_to_the_end_of_sequence():
    inner = make_tokenizer()
    inner.chat_template = CHAT_TEMPLATE.replace("+ '<|im_end|>' + '\n'", "")
    assert TextTokenizer(inner).chat.after_answer == (2,)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ messages[0]['content'] }}", "drops part of the message"),
        ("{{ raise_exception('no system turn') }}", "refuses a system turn"),
    ],
)
def test_a_base_that_cannot_chat_is_refused(template, message):
    inner = make_tokenizer()
    inner.chat_template = template
    with pytest.raises(ModelError, match=message):
        _ = TextTokenizer(inner).chat


def test_a_base_without_an_end_is_refused():
    inner = make_tokenizer()
    inner.eos_token = None
    with pytest.raises(ModelError, match="no end of sequence"):
        TextTokenizer(inner)


# ---- batches ----


def test_texts_are_framed_and_padded_on_the_right():
    batch = text_batch([[10, 11], [12]], n_memory=2, bos=1, eos=2)
    assert batch.ids_RT.tolist() == [
        [ENC, 1, 10, 11, 2, MEM_0, MEM_0 - 1],
        [ENC, 1, 12, 2, MEM_0, MEM_0 - 1, 0],
    ]
    assert batch.text_lengths_R.tolist() == [5, 4]
    assert batch.memory_positions_RM.tolist() == [[5, 6], [4, 5]]
    assert batch.n_tokens == 13
    assert torch.equal(batch.to("cpu").ids_RT, batch.ids_RT)


def test_targets_are_marked_where_they_stand():
    batch = prompt_batch([[([5, 6], False), ([7], True)], [([8], True)]])
    assert batch.ids_BT.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.target_mask_BT.tolist() == [[False, False, True], [True, False, False]]
    assert batch.n_tokens == 4
