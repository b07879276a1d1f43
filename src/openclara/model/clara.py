"""The three uses of one causal LM composed: compress, reason, generate.

Legend: R texts, B prompts, T positions, M memory tokens, D width, V vocabulary, O own tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from openclara.model.places import in_text_order, without_places, write_places
from openclara.model.scoring import cosine_scores, late_scores

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from openclara.data.batches import PromptBatch, TextBatch
    from openclara.model.adapters import Role
    from openclara.model.compiled import PackedLayers
    from openclara.model.memory import Anchors, MemoryTable


class Roles(Protocol):
    """Whatever can hand out the LM under a role: `AdapterRoles`, `MergedRoles`, `UnmergedRoles`."""

    lm: Any

    def use(self, role: Role | None) -> AbstractContextManager[Any]:
        """The LM under `role` for the length of the block."""


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """What anchored memory tokens carry.

    Attributes:
        embeddings_RMD: (R, M, D) of the tokens; zero where a memory token carries none.
        weights_RM: (R, M) how rare those tokens are, likewise.
        anchors: Where they stand.
    """

    embeddings_RMD: Tensor
    weights_RM: Tensor
    anchors: Anchors


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What compressor or reasoner made of a batch of texts.

    Attributes:
        latents_RMD: (R, M, D) states after the final norm at the memory positions.
        text_mean_RD: (R, D) mean state over ENC, BOS, text and EOS.
        memory_mean_RD: (R, D) mean state over the memory positions.
        weights_RM: (R, M) what each latent of a question counts in a late score; a row sums to 1.
    """

    latents_RMD: Tensor
    text_mean_RD: Tensor
    memory_mean_RD: Tensor
    weights_RM: Tensor


class ClaraModel(nn.Module):
    """Base, roles and memory table as one module; one method for each use.

    Args:
        roles: Adapters on the base, merged or not.
        memory: The table of memory tokens and marks.
        latent_gain: Factor on latents as they are spliced in. 1 is the published behaviour; states
            after the final norm are an order of magnitude larger than the input embeddings of
            many bases, and a gain near the ratio lets the generator's layers work on them.
        score: How questions and documents are compared, see `model.scoring`.
        head_OD: (O, D) rows that the model's own tokens have in the LM head of a published
            checkpoint: they take part in the softmax of its losses, and are never written.
    """

    head_OD: Tensor | None

    def __init__(
        self,
        roles: Roles,
        memory: MemoryTable,
        *,
        latent_gain: float = 1.0,
        score: Literal["flat", "late"] = "flat",
        head_OD: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.roles = roles
        self.lm = roles.lm
        self.memory = memory
        self.latent_gain = latent_gain
        self.score = score
        self.packed: PackedLayers | None = None
        """Computes the layers in training, where they are of a kind it knows."""
        self.register_buffer("head_OD", head_OD, persistent=False)

    @property
    def vocabulary(self) -> nn.Module:
        """The base's input embedding."""
        embedding: nn.Module = self.lm.get_input_embeddings()
        return embedding

    def encode(self, batch: TextBatch, role: Role) -> Encoded:
        """Latents of texts under the compressor or the reasoner (paper, section 3.1).

        The inner model is called, without LM head and without a list of hidden states: nothing
        but the last states at the memory positions is needed. Texts are padded on the right, and
        under causal attention padding there changes nothing, so no mask is passed.
        """
        states_RTD, carried = self.states(batch, role)
        n_rows, _, width = states_RTD.shape
        positions_RM = batch.memory_positions_RM
        index_RMD = positions_RM.unsqueeze(-1).expand(n_rows, positions_RM.shape[1], width)
        memory_RMD = latents_RMD = states_RTD.gather(1, index_RMD)
        weights_RM = torch.ones_like(positions_RM, dtype=torch.float32)
        if carried is not None:
            weights_RM = carried.weights_RM
            latents_RMD = self.latents(memory_RMD, carried, role)
        text_mask_RT = torch.arange(states_RTD.shape[1], device=states_RTD.device).unsqueeze(0)
        text_mask_RT = text_mask_RT < batch.text_lengths_R.unsqueeze(1)
        summed_RD = torch.einsum("rtd,rt->rd", states_RTD.float(), text_mask_RT.float())
        return Encoded(
            latents_RMD=latents_RMD,
            text_mean_RD=summed_RD / batch.text_lengths_R.unsqueeze(1),
            memory_mean_RD=memory_RMD.float().mean(1),
            weights_RM=weights_RM / weights_RM.sum(1, keepdim=True).clamp(min=1e-9),
        )

    def states(self, batch: TextBatch, role: Role) -> tuple[Tensor, Carried | None]:
        """States after the final norm at every position, and what the memory tokens carry.

        Returns:
            (R, T, D) states, and what is carried; None where memory is learned rows alone.
        """
        embedded_RTD = self.memory.embed(batch.ids_RT, self.vocabulary)
        carried = None
        if self.memory.anchored:
            carried = self._carried(batch, embedded_RTD, role)
            carried_RMD = carried.embeddings_RMD
            index_RMD = batch.memory_positions_RM.unsqueeze(-1).expand_as(carried_RMD)
            embedded_RTD = embedded_RTD.scatter_add(1, index_RMD, carried_RMD)
        lengths_R = batch.text_lengths_R + batch.memory_positions_RM.shape[1]
        with self.roles.use(role) as lm:
            states_RTD = self._last_states(lm, embedded_RTD, lengths_R)
        # A base that is spread over devices ends on another one than it begins.
        return states_RTD.to(embedded_RTD.device), carried

    def _last_states(self, lm: Any, embedded_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, T, D) states after the final norm; those behind a row's length may be missing."""
        if self.packed is not None:
            return self.packed(embedded_BTD, lengths_B)
        states: Tensor = lm.model(inputs_embeds=embedded_BTD, use_cache=False)[0]
        return states

    def latents(self, memory_RMD: Tensor, carried: Carried, role: Role) -> Tensor:
        """(R, M, D) latents of anchored memory tokens from their (R, M, D) states."""
        latents_RMD = memory_RMD + carried.embeddings_RMD / self.latent_gain
        if role == "reasoner":
            return without_places(latents_RMD)
        return write_places(
            latents_RMD,
            carried.anchors.ranks_RM,
            n_places=max(self.memory.n_memory, latents_RMD.shape[1]),
            latent_gain=self.latent_gain,
        )

    def _carried(self, batch: TextBatch, embedded_RTD: Tensor, role: Role) -> Carried:
        anchors = self.memory.anchors(
            batch.ids_RT,
            batch.text_lengths_R,
            batch.memory_positions_RM.shape[1],
            by="rarity" if role == "reasoner" else "salience",
        )
        at_RM, width = anchors.at_RM, embedded_RTD.shape[2]
        picked_RMD = embedded_RTD.gather(1, at_RM.unsqueeze(-1).expand(-1, -1, width))
        weights_RM = self.memory.token_weight_V[batch.ids_RT.clamp(min=0)].gather(1, at_RM)
        carries_RM = at_RM > 0
        return Carried(picked_RMD * carries_RM.unsqueeze(-1), weights_RM * carries_RM, anchors)

    def scores(self, questions: Encoded, latents_BNMD: Tensor) -> Tensor:
        """(B, N) scores of B questions with the (B, N, M, D) latents of their candidates."""
        if self.score == "late":
            return late_scores(questions.latents_RMD, questions.weights_RM, latents_BNMD)
        return cosine_scores(questions.latents_RMD, latents_BNMD)

    def in_reading_order(self, latents_NMD: Tensor) -> Tensor:
        """Latents of N texts as they fill the slots of prompts.

        Args:
            latents_NMD: (N, M, D) latents by number of the memory token, as they are stored.

        Returns:
            (N * M, D); anchored latents in the order of the text, others as numbered.
        """
        if self.memory.anchored:
            latents_NMD = in_text_order(latents_NMD)
        return latents_NMD.flatten(0, 1)

    def answer_logits(self, batch: PromptBatch, latents_SD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits where the generator's targets are, and the targets.

        Args:
            batch: Prompts with their targets.
            latents_SD: (S, D) latents for the slots, in reading order; None without slots.

        Returns:
            (L, V) float32 logits and (L,) target ids, L labelled positions of the batch.
        """
        if latents_SD is not None:
            latents_SD = latents_SD * self.latent_gain
        embedded_BTD = self.memory.embed(batch.ids_BT, self.vocabulary, latents_SD)
        # A state predicts the token after it.
        labelled_BT = batch.target_mask_BT[:, 1:]
        at_T = torch.arange(1, labelled_BT.shape[1] + 1, device=labelled_BT.device)
        lengths_B = (labelled_BT * at_T).amax(1).clamp(min=1)
        with self.roles.use("generator") as lm:
            states_LD = self._last_states(lm, embedded_BTD, lengths_B)[:, :-1][labelled_BT]
            logits_LV = lm.lm_head(states_LD)
        if self.head_OD is not None:
            own_LO = states_LD @ self.head_OD.to(states_LD.dtype).T
            logits_LV = torch.cat([logits_LV, own_LO], dim=-1)
        return logits_LV.float(), batch.ids_BT[:, 1:][labelled_BT]
