"""Answers, token by token: greedy or sampled, batched, streamed, stopped at the end of the turn.

Legend: B prompts, T positions, S slots, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openclara.data.batches import PAD
from openclara.data.tokenizer import SLOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openclara.model.adapters import Role
    from openclara.model.clara import ClaraModel


COLDEST = 1e-5
"""Temperatures below are greedy: logits divided by less than this need not be finite."""

LONG = 512
"""Positions from which reading the start again is cheaper than what follows a kept one: behind a
filled cache attention needs a mask, and does without the shortcuts it has without."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Ids with slots, and what goes into them.

    Attributes:
        ids: Token ids; slots are `SLOT`.
        latents_SD: (S, D) latents in reading order, with their places; None without slots.
        n_shared: Leading ids that come from the template alone: they are read once for all prompts.
    """

    ids: tuple[int, ...]
    latents_SD: Tensor | None = None
    n_shared: int = 0


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        temperature: 0 is greedy; else the logits are divided by it and sampled from.
        top_p: Sample from the smallest set of tokens that holds this much probability.
        seed: Makes sampling repeatable.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < COLDEST


@torch.inference_mode()
def generate(
    model: ClaraModel,
    prompts: Sequence[Prompt],
    *,
    decoding: Decoding,
    stop_ids: frozenset[int],
    role: Role | None = "generator",
) -> Iterator[list[int | None]]:
    """Decode a batch step by step.

    Prompts are padded on the left and masked, with positions counted from each prompt's own
    start, so an answer does not depend on what it is batched with (up to rounding).

    Args:
        model: Base, roles and memory table.
        prompts: What to continue; at least one.
        decoding: Length and choice of tokens.
        stop_ids: Ids that end an answer; they are not yielded.
        role: Whose adapter writes; None is the bare base.

    Yields:
        For each step the new token of each prompt, None where its answer has ended.
    """
    from openclara.model.cache import roomy_cache

    embedded_BTD, mask_BT, positions_BT, slot_BT = embed_prompts(model, prompts)
    device = embedded_BTD.device
    chooser = make_chooser(decoding, device)
    cache = roomy_cache(model.lm.config)
    padded = not bool(mask_BT.all())
    for layer, (keys, values) in zip(
        cache.layers, _shared_start(model, prompts, role), strict=False
    ):
        rows = (len(prompts), -1, -1, -1)
        layer.update(keys.expand(rows), values.expand(rows))
    n_read = cache.get_seq_length()
    embedded_BTD, positions_BT = embedded_BTD[:, n_read:], positions_BT[:, n_read:]
    slot_BT = slot_BT[:, n_read:]
    ended = [False] * len(prompts)
    for _ in range(decoding.max_new_tokens):
        with model.roles.use(role) as lm:
            inner, embedded_BTD = model.reading(lm, embedded_BTD, slot_BT)
            states_BTD = inner(
                inputs_embeds=embedded_BTD,
                attention_mask=mask_BT if padded else None,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            # On the device of the ids again, where the base is spread over several.
            logits_BV = lm.lm_head(states_BTD[:, -1]).float().to(device)
        chosen_B = choose(logits_BV, decoding, chooser)
        step: list[int | None] = []
        for row, token in enumerate(chosen_B.tolist()):
            ended[row] = ended[row] or token in stop_ids
            step.append(None if ended[row] else token)
        if all(ended):
            return
        yield step
        embedded_BTD = model.vocabulary(chosen_B.unsqueeze(1))
        slot_BT = slot_BT.new_zeros(len(prompts), 1)
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(prompts), 1)], dim=1)
        positions_BT = positions_BT[:, -1:] + 1


def _shared_start(
    model: ClaraModel, prompts: Sequence[Prompt], role: Role | None
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values, (1, K, S, W) of each layer, of what all prompts start with, if anything.

    Prompts of different lengths are padded in front of it.
    """
    ids = prompts[0].ids[: prompts[0].n_shared]
    alike = all(
        len(prompt.ids) == len(prompts[0].ids) and prompt.ids[: len(ids)] == ids
        for prompt in prompts
    )
    if not ids or not alike or len(prompts[0].ids) > LONG:
        return []
    return kept_start(model, ids, role)


def kept_start(
    model: ClaraModel, ids: tuple[int, ...], role: Role | None
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values, (1, K, S, W) of each layer, of the start of a prompt, read once.

    Nothing is kept of what trains: it has no lasting ones.
    """
    from openclara.model.cache import roomy_cache

    starts = getattr(model.roles, "starts", None)
    if starts is None:
        return []
    if (role, ids) not in starts:
        cache = roomy_cache(model.lm.config)
        ids_BT = torch.tensor([ids], device=model.memory.weight.device)
        with model.roles.use(role) as lm:
            embedded_BTD = model.memory.embed(ids_BT, model.vocabulary)
            lm.model(inputs_embeds=embedded_BTD, past_key_values=cache, use_cache=True)
        starts[role, ids] = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    found: list[tuple[Tensor, Tensor]] = starts[role, ids]
    return found


def embed_prompts(
    model: ClaraModel, prompts: Sequence[Prompt]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prompts padded on the left.

    Returns:
        (B, T, D) embeddings, (B, T) what is no padding, (B, T) rotary positions and (B, T) slots.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    ids_BT = torch.full((len(prompts), longest), PAD, dtype=torch.long)
    mask_BT = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids_BT[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask_BT[row, longest - len(prompt.ids) :] = True
    embedded_BTD, steps_BT = embed_ids(model, ids_BT, prompts)
    mask_BT = mask_BT.to(embedded_BTD.device)
    positions_BT = (steps_BT * mask_BT).cumsum(1) - 1
    slot_BT = (ids_BT == SLOT).to(embedded_BTD.device)
    return embedded_BTD, mask_BT, positions_BT.clamp(min=0), slot_BT


def embed_ids(
    model: ClaraModel, ids_BT: Tensor, prompts: Sequence[Prompt]
) -> tuple[Tensor, Tensor]:
    """Embeddings of ids that hold every slot of the prompts, in their order.

    Returns:
        (B, T, D) embeddings, and (B, T) by how much the rotary position of each is after the one
        before it.
    """
    parts = [prompt.latents_SD for prompt in prompts if prompt.latents_SD is not None]
    device = model.memory.weight.device
    latents_SD = torch.cat([part.to(device) for part in parts]).float() if parts else None
    embedded_BTD, steps_BT = model.embed(ids_BT.to(device), latents_SD)
    if steps_BT is None:
        steps_BT = torch.ones(ids_BT.shape, dtype=torch.long, device=embedded_BTD.device)
    return embedded_BTD, steps_BT


def make_chooser(decoding: Decoding, device: torch.device) -> torch.Generator:
    """The source of chance of a decoding."""
    chooser = torch.Generator(device=device)
    if decoding.seed is not None:
        chooser.manual_seed(decoding.seed)
    else:
        chooser.seed()
    return chooser


def choose(logits_BV: Tensor, decoding: Decoding, chooser: torch.Generator) -> Tensor:
    """(B,) token ids."""
    if decoding.greedy:
        return logits_BV.argmax(-1)
    probabilities_BV = torch.softmax(logits_BV / decoding.temperature, dim=-1)
    if decoding.top_p < 1:
        sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True)
        # Keep tokens until the mass before them reaches top_p: the first one always stays.
        beyond_BV = sorted_BV.cumsum(-1) - sorted_BV >= decoding.top_p
        beyond_BV[:, 0] = False
        probabilities_BV = torch.zeros_like(probabilities_BV).scatter(
            -1, order_BV, sorted_BV.masked_fill(beyond_BV, 0.0)
        )
    return torch.multinomial(probabilities_BV, 1, generator=chooser).squeeze(1)
