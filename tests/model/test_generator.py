"""Decoding against transformers' own, and what batching, sampling and stopping must keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import anchored_memory, plain_lm, random_roles, tiny_clara_model

from openclara.data.tokenizer import SEP, SLOT
from openclara.model import generator
from openclara.model.continuous import DecodingBatch, Entry
from openclara.model.generator import Decoding, Prompt, choose, generate
from openclara.model.places import LENGTH, PLACE, without_places, write_places

NEVER: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def model(tiny_base):
    return tiny_clara_model(tiny_base)


@pytest.fixture(scope="module")
def generator_lm(tiny_base):
    return plain_lm(tiny_base, random_roles(plain_lm(tiny_base))["generator"])


def latents(n, seed):
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


PROMPTS = [
    Prompt((1, 20, SLOT, SLOT, SEP, 30, 40), latents(2, 0)),
    Prompt((1, 50, 60)),
    Prompt((1, *[SLOT] * 6, SEP, *range(100, 112)), latents(6, 1)),
    Prompt((1, 20, SLOT, SLOT, SEP, 30, 40), latents(2, 2)),
]


def written(model, prompts, *, stop_ids=NEVER, **decoding):
    rows: list[list[int]] = [[] for _ in prompts]
    steps = generate(model, prompts, decoding=Decoding(**decoding), stop_ids=stop_ids)
    for step in steps:
        for row, token in zip(rows, step, strict=True):
            if token is not None:
                row.append(token)
    return rows


def embedded_by_hand(model, lm, prompt):
    rows, slots = [], iter(() if prompt.latents_SD is None else prompt.latents_SD)
    for i in prompt.ids:
        if i == SLOT:
            rows.append(next(slots))
        else:
            rows.append(model.memory.weight[-i] if i < 0 else lm.get_input_embeddings().weight[i])
    return torch.stack(rows).unsqueeze(0).detach()


@pytest.mark.parametrize("at", range(len(PROMPTS)))
def test_greedy_is_token_for_token_what_transformers_generates(model, generator_lm, at):
    embedded = embedded_by_hand(model, generator_lm, PROMPTS[at])
    expected = generator_lm.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=[399999],
        pad_token_id=0,
    )[0]
    assert written(model, [PROMPTS[at]], max_new_tokens=12) == [expected.tolist()]
    assert len(set(expected.tolist())) > 2


@pytest.fixture(scope="module", params=[0, 1])
def placed(tiny_base, request):
    """A model whose latents stand apart, at the input or halfway, and prompts with some."""
    model = tiny_clara_model(tiny_base, latent_layer=request.param)
    model.memory = anchored_memory(model.vocabulary.weight)
    prompts = []
    for prompt, places in ((PROMPTS[0], [3, 9]), (PROMPTS[2], [0, 1, 4, 5, 20, 31])):
        marked = write_places(
            prompt.latents_SD[None], torch.tensor([places]), n_places=32, length=LENGTH
        )
        prompts.append(Prompt(prompt.ids, marked[0]))
    return model, [*prompts, PROMPTS[1]]


def test_latents_are_read_at_positions_as_far_apart(placed, generator_lm):
    model, prompts = placed
    positions = [[0, 1, 2, 7, 8, 9, 10], [0, 1, 2, 5, 6, 11, 16, *range(17, 30)]]
    for prompt, own in zip(prompts, positions, strict=False):
        embedded = embedded_by_hand(model, generator_lm, prompt)
        slots = torch.tensor(prompt.ids) == SLOT
        embedded[0, slots, :PLACE] = 0.0
        entering = embedded[:, slots]
        if model.latent_layer:
            salience = model.memory.salience
            entering = entering * salience.spread_D + salience.mean_D
            embedded[0, slots] = 0.0
        expected: list[int] = []
        for _ in range(12):
            at = torch.tensor([[*own, *range(own[-1] + 1, own[-1] + 1 + len(expected))]])

            def enter(layer, given, entering=entering, slots=slots):
                states = given[0].clone()
                states[:, : len(slots)][:, slots] = entering
                return (states, *given[1:])

            hook = generator_lm.model.layers[model.latent_layer].register_forward_pre_hook(enter)
            with torch.inference_mode():
                logits = generator_lm(
                    inputs_embeds=embedded, position_ids=at, attention_mask=torch.ones_like(at)
                ).logits
            hook.remove()
            expected.append(int(logits[0, -1].argmax()))
            new = generator_lm.get_input_embeddings().weight[expected[-1:]].detach()
            embedded = torch.cat([embedded, new[None]], dim=1)
        assert written(model, [prompt], max_new_tokens=12) == [expected]
        close = Prompt(prompt.ids, without_places(prompt.latents_SD))
        assert written(model, [close], max_new_tokens=12) != [expected]


def test_a_batch_of_latents_that_stand_apart_is_one_by_one(placed):
    model, prompts = placed
    alone = [written(model, [prompt], max_new_tokens=12)[0] for prompt in prompts]
    assert written(model, prompts, max_new_tokens=12) == alone
    batch = DecodingBatch(model)
    entries = [Entry(prompt, Decoding(max_new_tokens=12), NEVER) for prompt in prompts]
    batch.join(entries[:2])
    batch.step()
    batch.join(entries[2:])
    while len(batch):
        batch.step()
    assert [entry.written for entry in entries] == alone


def test_latents_change_the_answer(model):
    first, _, _, fourth = written(model, PROMPTS, max_new_tokens=8)
    assert first != fourth


def test_a_batch_padded_on_the_left_is_one_by_one(model):
    alone = [written(model, [prompt], max_new_tokens=12)[0] for prompt in PROMPTS]
    assert written(model, PROMPTS, max_new_tokens=12) == alone


def test_the_gain_scales_the_latents(model, tiny_base):
    gained = tiny_clara_model(tiny_base)
    gained.latent_gain = 0.25
    scaled = [Prompt(p.ids, None if p.latents_SD is None else p.latents_SD * 4) for p in PROMPTS]
    assert written(gained, scaled, max_new_tokens=6) == written(model, PROMPTS, max_new_tokens=6)


def test_each_answer_stops_at_its_own_end(model):
    free = written(model, PROMPTS, max_new_tokens=10)
    stop = free[0][3]
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert len({len(row) for row in expected}) > 1
    stopped = written(model, PROMPTS, max_new_tokens=10, stop_ids=frozenset({stop}))
    assert stopped == expected


def test_it_ends_as_soon_as_all_have_stopped(model):
    first = written(model, PROMPTS[:1], max_new_tokens=1)[0][0]
    steps = generate(
        model, PROMPTS[:1], decoding=Decoding(max_new_tokens=50), stop_ids=frozenset({first})
    )
    assert list(steps) == []


def test_nothing_is_written_within_zero_tokens(model):
    assert written(model, PROMPTS[:1], max_new_tokens=0) == [[]]


def test_sampling_repeats_with_its_seed_only(model):
    choice = {"max_new_tokens": 12, "temperature": 1.0}
    first = written(model, PROMPTS, seed=7, **choice)
    assert written(model, PROMPTS, seed=7, **choice) == first
    assert written(model, PROMPTS, seed=8, **choice) != first
    assert first != written(model, PROMPTS, max_new_tokens=12)


@pytest.mark.parametrize("top_p", [0.0, 1e-6])
def test_a_small_top_p_leaves_the_likeliest_token(model, top_p):
    greedy = written(model, PROMPTS, max_new_tokens=6)
    assert written(model, PROMPTS, max_new_tokens=6, temperature=1.0, top_p=top_p) == greedy


def test_top_p_samples_from_the_smallest_set_with_that_mass():
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]])).repeat(4000, 1)
    chooser = torch.Generator().manual_seed(0)
    chosen = choose(logits, Decoding(temperature=1.0, top_p=0.6), chooser)
    counts = torch.bincount(chosen, minlength=4) / 4000
    expected = torch.tensor([0.0, 4 / 7, 0.0, 3 / 7])
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.03)
    cold = choose(logits, Decoding(temperature=0.5), chooser)
    square = torch.tensor([0.1, 0.4, 0.2, 0.3]).square()
    counts = torch.bincount(cold, minlength=4) / 4000
    torch.testing.assert_close(counts, square / square.sum(), rtol=0, atol=0.03)


@pytest.fixture
def seen(model, monkeypatch):
    """Positions that each pass of the generator read."""
    counts = []
    with model.roles.use("generator") as lm:
        forward = lm.model.forward

    def counted(*args, inputs_embeds, **kwargs):
        counts.append(inputs_embeds.shape[1])
        return forward(*args, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(lm.model, "forward", counted)
    model.roles.starts.clear()
    return counts


@pytest.mark.parametrize("rows", [[0], [0, 3], [0, 3, 3]])
def test_a_shared_start_is_read_once_and_changes_nothing(model, seen, rows):
    prompts = [PROMPTS[at] for at in rows]
    expected = written(model, prompts, max_new_tokens=5)
    assert seen == [7, 1, 1, 1, 1]
    shared = [replace(prompt, n_shared=2) for prompt in prompts]
    assert written(model, shared, max_new_tokens=5) == expected
    assert written(model, shared, max_new_tokens=5) == expected
    assert seen[5:] == [2, 5, 1, 1, 1, 1, 5, 1, 1, 1, 1]


def test_each_role_has_starts_of_its_own(model, seen):
    shared = replace(PROMPTS[0], n_shared=2)
    decoding = Decoding(max_new_tokens=3)
    for role in ("generator", "compressor"):
        bare, kept = (
            list(generate(model, [prompt], decoding=decoding, stop_ids=NEVER, role=role))
            for prompt in (PROMPTS[0], shared)
        )
        assert kept == bare
    assert len(model.roles.starts) == 2


def test_prompts_of_different_length_or_start_are_read_whole(model, seen):
    longer = replace(PROMPTS[2], n_shared=2)
    other = Prompt((1, 21, SLOT, SLOT, SEP, 30, 40), latents(2, 0), n_shared=2)
    for prompts in ([replace(PROMPTS[0], n_shared=2), longer],
                    [replace(PROMPTS[0], n_shared=2), other]):  # fmt: skip
        plain = [replace(prompt, n_shared=0) for prompt in prompts]
        assert written(model, prompts, max_new_tokens=3) == written(model, plain, max_new_tokens=3)
    assert not model.roles.starts


def test_long_prompts_are_read_whole(model, seen, monkeypatch):
    shared = replace(PROMPTS[0], n_shared=2)
    monkeypatch.setattr(generator, "LONG", len(shared.ids))
    written(model, [shared], max_new_tokens=1)
    assert seen == [2, 5]
    model.roles.starts.clear()
    monkeypatch.setattr(generator, "LONG", len(shared.ids) - 1)
    written(model, [shared], max_new_tokens=1)
    assert seen == [2, 5, 7]


def test_what_trains_keeps_no_starts(tiny_base):
    training = tiny_clara_model(tiny_base, merged=False)
    shared = replace(PROMPTS[0], n_shared=2)
    expected = written(training, [PROMPTS[0]], max_new_tokens=3)
    assert written(training, [shared], max_new_tokens=3) == expected
