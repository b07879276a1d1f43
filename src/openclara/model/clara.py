"""The three uses of one causal LM composed: compress, reason, generate.

Legend: R texts, B prompts, T positions, M memory tokens, D width, V vocabulary, O own tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from openclara.data.tokenizer import SLOT
from openclara.model.partial import first_layers, keeping
from openclara.model.places import in_text_order, steps, without_places, write_places
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
        positions_RM = batch.memory_positions_RM
        memory_RMD = latents_RMD = _rows_at(states_RTD, positions_RM)
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
            if role == "reasoner":
                carried = self._carried(batch, embedded_RTD, None)
            elif self.packed is not None and self.packed.rowwise:
                return self._packed_text_first(self.packed, batch, embedded_RTD, role)
            elif self.packed is None and not torch.is_grad_enabled():
                return self._text_first(batch, embedded_RTD, role)
            else:
                carried = self._carried(batch, embedded_RTD, self.text_states(batch, embedded_RTD))
            embedded_RTD = self._at_memory(batch, embedded_RTD, carried.embeddings_RMD)
        lengths_R = batch.text_lengths_R + batch.memory_positions_RM.shape[1]
        with self.roles.use(role) as lm:
            states_RTD = self._last_states(lm, embedded_RTD, lengths_R)
        # A base that is spread over devices ends on another one than it begins.
        return states_RTD.to(embedded_RTD.device), carried

    def _text_first(
        self, batch: TextBatch, embedded_RTD: Tensor, role: Role
    ) -> tuple[Tensor, Carried]:
        """As `states`, with the memory tokens read after the text, whose keys and values are kept.

        What they carry depends on its states, and so it is read once; nothing learns here.
        """
        from transformers import DynamicCache  # seconds cold, and not needed to import this

        longest, device = int(batch.text_lengths_R.max()), embedded_RTD.device
        cache = DynamicCache(config=self.lm.config)
        with self.roles.use(role) as lm:
            reader, kept = keeping(lm.model, self._n_text_layers(lm))
            text_RTD = reader(
                inputs_embeds=embedded_RTD[:, :longest], past_key_values=cache, use_cache=True
            )[0].to(device)
            carried = self._carried(batch, embedded_RTD, lm.model.norm(kept[0]).to(device))
            embedded_RTD = self._at_memory(batch, embedded_RTD, carried.embeddings_RMD)
            read_RT = torch.arange(longest, device=device) < batch.text_lengths_R.unsqueeze(1)
            all_RS = torch.cat([read_RT, torch.ones_like(batch.memory_positions_RM).bool()], dim=1)
            memory_RMD = lm.model(
                inputs_embeds=_rows_at(embedded_RTD, batch.memory_positions_RM),
                attention_mask=None if bool(read_RT.all()) else all_RS.long(),
                position_ids=batch.memory_positions_RM,
                past_key_values=cache,
                use_cache=True,
            )[0].to(device)
        states_RTD = torch.zeros_like(embedded_RTD)
        states_RTD[:, :longest] = text_RTD
        index_RMD = batch.memory_positions_RM.unsqueeze(-1).expand_as(memory_RMD)
        return states_RTD.scatter(1, index_RMD, memory_RMD), carried

    def _packed_text_first(
        self, packed: PackedLayers, batch: TextBatch, embedded_RTD: Tensor, role: Role
    ) -> tuple[Tensor, Carried]:
        """As `_text_first`, in training; the choice of what is carried teaches nothing."""
        found: list[Carried] = []

        def carrying(states_RTD: Tensor) -> Tensor:
            found.append(self._carried(batch, embedded_RTD, states_RTD.detach()))
            return self._at_memory(batch, embedded_RTD, found[0].embeddings_RMD)

        with self.roles.use(role) as lm:
            states_RTD = packed.text_first(
                embedded_RTD,
                batch.text_lengths_R,
                batch.memory_positions_RM.shape[1],
                n_layers=self._n_text_layers(lm),
                carrying=carrying,
            )
        return states_RTD, found[0]

    def _at_memory(self, batch: TextBatch, embedded_RTD: Tensor, carried_RMD: Tensor) -> Tensor:
        """(R, T, D) input embeddings with what the memory tokens carry added at these."""
        index_RMD = batch.memory_positions_RM.unsqueeze(-1).expand_as(carried_RMD)
        return embedded_RTD.scatter_add(1, index_RMD, carried_RMD)

    def _n_text_layers(self, lm: Any) -> int:
        return max(1, 2 * len(lm.model.layers) // 3)

    @torch.no_grad()
    def text_states(self, batch: TextBatch, embedded_RTD: Tensor | None = None) -> Tensor:
        """States before the memory tokens, two thirds through the compressor, without dropout.

        What a text is about is read off these more easily than off the last ones, which are about
        the next token (`docs/experiments.md`).

        Args:
            batch: Texts; their memory tokens are left out.
            embedded_RTD: (R, T, D) their input embeddings, where they are at hand.

        Returns:
            (R, T', D) after the final norm, T' the positions before the memory tokens of the
            longest text.
        """
        if embedded_RTD is None:
            embedded_RTD = self.memory.embed(batch.ids_RT, self.vocabulary)
        longest = int(batch.text_lengths_R.max())
        training = self.training
        if training:
            self.eval()
        with self.roles.use("compressor") as lm:
            states_RTD = self._last_states(
                lm,
                embedded_RTD[:, :longest],
                batch.text_lengths_R,
                n_layers=self._n_text_layers(lm),
            )
        if training:
            self.train()
        return states_RTD.to(embedded_RTD.device)

    def _last_states(
        self,
        lm: Any,
        embedded_BTD: Tensor,
        lengths_B: Tensor,
        *,
        n_layers: int | None = None,
        steps_BT: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) states after the final norm; those behind a row's length may be missing.

        With `n_layers` the layers after so many are left out; `steps_BT` are those of `embed`.
        """
        positions_BT = None if steps_BT is None else steps_BT.cumsum(1) - 1
        if self.packed is not None:
            return self.packed(
                embedded_BTD, lengths_B, n_layers=n_layers, positions_BT=positions_BT
            )
        inner = lm.model if n_layers is None else first_layers(lm.model, n_layers)
        placed = {}
        if positions_BT is not None:
            # The mask says that a gap in the positions does not begin another text.
            placed = {
                "position_ids": positions_BT,
                "attention_mask": torch.ones_like(positions_BT),
            }
        states: Tensor = inner(inputs_embeds=embedded_BTD, use_cache=False, **placed)[0]
        return states

    def latents(self, memory_RMD: Tensor, carried: Carried, role: Role) -> Tensor:
        """(R, M, D) latents of anchored memory tokens from their (R, M, D) states."""
        latents_RMD = memory_RMD + carried.embeddings_RMD / self.latent_gain
        if role == "reasoner":
            return without_places(latents_RMD)
        return write_places(
            latents_RMD,
            carried.anchors.places_RM,
            n_places=self.memory.n_places,
            latent_gain=self.latent_gain,
        )

    def _carried(
        self, batch: TextBatch, embedded_RTD: Tensor, states_RTD: Tensor | None
    ) -> Carried:
        n_memory = batch.memory_positions_RM.shape[1]
        anchors = self.memory.anchors(batch.ids_RT, batch.text_lengths_R, n_memory, states_RTD)
        at_RM = anchors.at_RM
        picked_RMD = _rows_at(embedded_RTD, at_RM)
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
            (N * M, D); anchored latents in the order of the text, with their places, others as
            numbered.
        """
        if self.memory.anchored:
            latents_NMD = in_text_order(latents_NMD)
        return latents_NMD.flatten(0, 1)

    def embed(self, ids_BT: Tensor, latents_SD: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Input embeddings of prompts, and how far apart their positions are.

        Args:
            ids_BT: (B, T) ids with S slots.
            latents_SD: (S, D) latents for them, in reading order; None without slots.

        Returns:
            (B, T, D) embeddings, and (B, T) by how much the rotary position of each is after the
            one before it, None where it is by one everywhere.
        """
        if latents_SD is None or not self.memory.anchored:
            gained = None if latents_SD is None else latents_SD * self.latent_gain
            return self.memory.embed(ids_BT, self.vocabulary, gained), None
        slot_BT = ids_BT == SLOT
        steps_BT = torch.ones_like(ids_BT).masked_scatter(
            slot_BT, steps(latents_SD, n_places=self.memory.n_places).to(ids_BT.device)
        )
        # The first latent of a text follows what is no latent.
        follows_BT = torch.nn.functional.pad(slot_BT[:, :-1], (1, 0))
        latents_SD = without_places(latents_SD) * self.latent_gain
        embedded_BTD = self.memory.embed(ids_BT, self.vocabulary, latents_SD)
        return embedded_BTD, steps_BT.where(follows_BT, 1)

    def answer_logits(self, batch: PromptBatch, latents_SD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits where the generator's targets are, and the targets.

        Args:
            batch: Prompts with their targets.
            latents_SD: (S, D) latents for the slots, in reading order; None without slots.

        Returns:
            (L, V) float32 logits and (L,) target ids, L labelled positions of the batch.
        """
        embedded_BTD, steps_BT = self.embed(batch.ids_BT, latents_SD)
        # A state predicts the token after it.
        labelled_BT = batch.target_mask_BT[:, 1:]
        at_T = torch.arange(1, labelled_BT.shape[1] + 1, device=labelled_BT.device)
        lengths_B = (labelled_BT * at_T).amax(1).clamp(min=1)
        with self.roles.use("generator") as lm:
            states_BTD = self._last_states(lm, embedded_BTD, lengths_B, steps_BT=steps_BT)
            states_LD = states_BTD[:, :-1][labelled_BT]
            logits_LV = lm.lm_head(states_LD)
        if self.head_OD is not None:
            own_LO = states_LD @ self.head_OD.to(states_LD.dtype).T
            logits_LV = torch.cat([logits_LV, own_LO], dim=-1)
        return logits_LV.float(), batch.ids_BT[:, 1:][labelled_BT]


def _rows_at(x_RTD: Tensor, at_RM: Tensor) -> Tensor:
    """(R, M, D) of (R, T, D), at (R, M) positions."""
    return x_RTD.gather(1, at_RM.unsqueeze(-1).expand(-1, -1, x_RTD.shape[2]))
