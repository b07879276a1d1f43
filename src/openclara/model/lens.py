"""What latents say in words: the logit lens, and the nearest positions of the text.

Latents are states after the final norm, which is what the LM head reads, so the lens is the head
itself (nostalgebraist 2020; paper, figure 1); of latents that enter a generator halfway it is the
final norm and the head. An anchored latent is such a state plus the embedding of the token it
carries: only the state goes through the head.

Legend: T text tokens, M memory tokens, D width, V vocabulary, L words of a lens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openclara.data.batches import text_batch
from openclara.model.memory import BEFORE_TEXT
from openclara.model.places import angles, without_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.model.adapters import Role
    from openclara.model.clara import ClaraModel


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """One text, taken apart.

    Attributes:
        latents_MD: (M, D) float32 latents, as they are stored and compared.
        states_MD: (M, D) float32 the same without what they carry, and without their places.
        text_states_TD: (T, D) float32 final states at the tokens of the text.
        anchors: For each memory token the text token that it carries, None for none; empty where
            memory is learned rows alone.
        order: Numbers of the latents as they stand in a prompt.
    """

    latents_MD: Tensor
    states_MD: Tensor
    text_states_TD: Tensor
    anchors: tuple[int | None, ...]
    order: tuple[int, ...]


@torch.inference_mode()
def examine(
    model: ClaraModel,
    ids: Sequence[int],
    role: Role,
    *,
    n_memory: int,
    bos: int,
    eos: int,
    stored_MD: Tensor | None = None,
) -> Examined:
    """Read one text and keep what is usually thrown away.

    Args:
        model: Base, roles and memory table.
        ids: Tokens of the text (T).
        role: Who reads it.
        n_memory: Memory tokens (M).
        bos: Beginning of sequence of the base.
        eos: End of sequence of the base.
        stored_MD: (M, D) latents of this text from an index, to examine in place of fresh ones.
    """
    batch = text_batch([ids], n_memory=n_memory, bos=bos, eos=eos)
    batch = batch.to(model.memory.weight.device)
    states_RTD, carried = model.states(batch, role)
    text_states_TD = states_RTD[0, BEFORE_TEXT : BEFORE_TEXT + len(ids)].float()
    states_RMD = states_RTD[:, batch.memory_positions_RM[0]]
    if carried is None:
        latents_MD = states_RMD[0] if stored_MD is None else stored_MD.to(states_RMD.device)
        latents_MD = latents_MD.float()
        return Examined(latents_MD, latents_MD, text_states_TD, (), tuple(range(n_memory)))
    at_M = carried.anchors.at_RM[0].tolist()
    anchors = tuple(None if at == 0 else at - BEFORE_TEXT for at in at_M)
    carried_MD = carried.embeddings_RMD[0] / model.latent_gain
    if model.latent_layer:
        carried_MD = torch.zeros_like(carried_MD)
    if stored_MD is None:
        # Summed in the model's own arithmetic, as the latents that are stored.
        latents_MD = model.latents(states_RMD, carried, role)[0].float()
        states_MD = states_RMD[0].float()
    else:
        latents_MD = stored_MD.to(states_RMD.device).float()
        states_MD = latents_MD - carried_MD.float()
    order = angles(latents_MD).argsort(stable=True)
    if role == "reasoner":
        # Of a question there are no places in the latents, nor do they go into prompts.
        order = carried.anchors.places_RM[0].argsort()
    states_MD = without_places(states_MD)
    return Examined(latents_MD, states_MD, text_states_TD, anchors, tuple(order.tolist()))


@torch.inference_mode()
def logit_lens(model: ClaraModel, states_MD: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Tokens that the base's LM head would write from each state.

    Args:
        model: Base, roles and memory table.
        states_MD: (M, D) as `Examined` has them.
        n_tokens: Likeliest tokens to keep of each (L), at most V.

    Returns:
        (M, L) float32 probabilities and (M, L) ids, likeliest first.
    """
    head = model.lm.lm_head
    if model.latent_layer:
        states_MD = model.lm.model.norm(model.memory.restored(states_MD))
    logits_MV = head(states_MD.to(head.weight.dtype)).float()
    best = torch.softmax(logits_MV, dim=-1).topk(n_tokens, dim=-1)
    return best.values, best.indices


def nearest(states_MD: Tensor, text_states_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Text token whose final state points most nearly the same way as each memory state.

    Returns:
        (M,) float32 cosines and (M,) positions in the text, the first of equal ones.

    Raises:
        ValueError: The text has no tokens.
    """
    if not len(text_states_TD):
        raise ValueError("a text without tokens has no nearest one")
    own_MD = torch.nn.functional.normalize(states_MD.float(), dim=-1)
    text_TD = torch.nn.functional.normalize(text_states_TD.float(), dim=-1)
    best = (own_MD @ text_TD.T).max(dim=-1)
    return best.values, best.indices


def mean_pairwise_cosine(latents_MD: Tensor) -> float | None:
    """Mean cosine over all pairs of (M, D) latents; None for a single one, which has no pair."""
    n_memory = latents_MD.shape[0]
    if n_memory == 1:
        return None
    unit_MD = torch.nn.functional.normalize(latents_MD.double(), dim=-1)
    # The squared length of their sum is the sum over all ordered pairs, each with itself included.
    return float((unit_MD.sum(0).square().sum() - n_memory) / (n_memory * (n_memory - 1)))
