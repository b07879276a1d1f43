"""The three uses of one causal LM composed: compress, reason, generate.

Legend: R texts, B prompts, T positions, M memory tokens, D width, V vocabulary, O own tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from openclara.data.tokenizer import SLOT
from openclara.model.partial import entering, first_layers, keeping
from openclara.model.places import (
    LENGTH,
    STANDARD_LENGTH,
    in_text_order,
    steps,
    without_places,
    write_places,
)
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
        latents_RMD: (R, M, D) latents.
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
        latent_layer: After how many layers of the generator latents enter, which are all that
            compressor and reasoner then have; 0 is at the input, after all of theirs (published).
            A state halfway is what the layers behind it are made to read, and need not be told
            again as an input (`docs/experiments.md`).
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
        latent_layer: int = 0,
        score: Literal["flat", "late"] = "flat",
        head_OD: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.roles = roles
        self.lm = roles.lm
        self.memory = memory
        self.latent_gain = latent_gain
        self.latent_layer = latent_layer
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
        """States that latents are made of, at every position, and what the memory tokens carry.

        Returns:
            (R, T, D) states, after the final norm or where latents enter a generator, there in
            spreads from their mean; and what is carried, None where memory is learned rows alone.
        """
        embedded_RTD = self.memory.embed(batch.ids_RT, self.vocabulary)
        carried = positions_RT = None
        if self.memory.anchored:
            if role == "reasoner":
                carried = self._carried(batch, embedded_RTD, None)
            elif self.packed is not None and self.packed.rowwise:
                return self._packed_text_first(self.packed, batch, embedded_RTD, role)
            elif self.packed is None and not torch.is_grad_enabled():
                return self._text_first(batch, embedded_RTD, role)
            else:
                carried = self._carried(batch, embedded_RTD, self.text_states(batch, embedded_RTD))
            embedded_RTD, positions_RT = self._at_memory(batch, embedded_RTD, carried)
        lengths_R = batch.text_lengths_R + batch.memory_positions_RM.shape[1]
        with self.roles.use(role) as lm:
            states_RTD = self._through(
                lm,
                embedded_RTD,
                lengths_R,
                n_layers=self.latent_layer or None,
                positions_BT=positions_RT,
            )
        # A base that is spread over devices ends on another one than it begins.
        return self._standard(states_RTD.to(embedded_RTD.device)), carried

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
            inner = first_layers(lm.model, self.latent_layer) if self.latent_layer else lm.model
            reader, kept = keeping(inner, self._n_text_layers(lm))
            text_RTD = reader(
                inputs_embeds=embedded_RTD[:, :longest], past_key_values=cache, use_cache=True
            )[0].to(device)
            carried = self._carried(batch, embedded_RTD, self._told(lm, kept[0]).to(device))
            embedded_RTD, positions_RT = self._at_memory(batch, embedded_RTD, carried)
            positions_RM = batch.memory_positions_RM
            if positions_RT is not None:
                positions_RM = positions_RT.gather(1, positions_RM)
            read_RT = torch.arange(longest, device=device) < batch.text_lengths_R.unsqueeze(1)
            all_RS = torch.cat([read_RT, torch.ones_like(positions_RM).bool()], dim=1)
            # Without a mask, positions that jump would begin another text.
            plain = positions_RT is None and bool(read_RT.all())
            memory_RMD = inner(
                inputs_embeds=_rows_at(embedded_RTD, batch.memory_positions_RM),
                attention_mask=None if plain else all_RS.long(),
                position_ids=positions_RM,
                past_key_values=cache,
                use_cache=True,
            )[0].to(device)
        states_RTD = torch.zeros_like(embedded_RTD)
        states_RTD[:, :longest] = text_RTD
        index_RMD = batch.memory_positions_RM.unsqueeze(-1).expand_as(memory_RMD)
        return self._standard(states_RTD.scatter(1, index_RMD, memory_RMD)), carried

    def _packed_text_first(
        self, packed: PackedLayers, batch: TextBatch, embedded_RTD: Tensor, role: Role
    ) -> tuple[Tensor, Carried]:
        """As `_text_first`, in training; the choice of what is carried teaches nothing."""
        found: list[Carried] = []

        with self.roles.use(role) as lm:

            def carrying(states_RTD: Tensor) -> tuple[Tensor, Tensor | None]:
                told_RTD = self._told(lm, states_RTD.detach())
                found.append(self._carried(batch, embedded_RTD, told_RTD))
                return self._at_memory(batch, embedded_RTD, found[0])

            states_RTD = packed.text_first(
                embedded_RTD,
                batch.text_lengths_R,
                batch.memory_positions_RM.shape[1],
                n_read=self._n_text_layers(lm),
                n_layers=self.latent_layer or None,
                carrying=carrying,
            )
        return self._standard(states_RTD), found[0]

    def _at_memory(
        self, batch: TextBatch, embedded_RTD: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor | None]:
        """Input embeddings with what memory tokens carry added at these, and rotary positions.

        A memory token whose state is to enter a generator's layers reads the text from where the
        token that it carries stands; others stand after the text.

        Returns:
            (R, T, D) embeddings, and (R, T) positions, None where they ascend by one.
        """
        at_RM, positions_RM = carried.anchors.at_RM, batch.memory_positions_RM
        index_RMD = positions_RM.unsqueeze(-1).expand_as(carried.embeddings_RMD)
        embedded_RTD = embedded_RTD.scatter_add(1, index_RMD, carried.embeddings_RMD)
        if not self.latent_layer:
            return embedded_RTD, None
        positions_T = torch.arange(embedded_RTD.shape[1], device=at_RM.device)
        own_RM = torch.where(at_RM > 0, at_RM, positions_RM)
        return embedded_RTD, positions_T.expand(len(at_RM), -1).scatter(1, positions_RM, own_RM)

    def _n_text_layers(self, lm: Any) -> int:
        return self.latent_layer or max(1, 2 * len(lm.model.layers) // 3)

    def _told(self, lm: Any, states_RTD: Tensor) -> Tensor:
        """What `text_states` gives, from states after its layers."""
        normed_RTD: Tensor = states_RTD if self.latent_layer else lm.model.norm(states_RTD)
        return normed_RTD

    def _standard(self, states_RTD: Tensor) -> Tensor:
        """States that enter halfway in spreads from their mean.

        A few of their coordinates are far larger than all others and would decide each cosine and
        each rounding to eight bits.
        """
        return self.memory.standard(states_RTD) if self.latent_layer else states_RTD

    @torch.no_grad()
    def text_states(self, batch: TextBatch, embedded_RTD: Tensor | None = None) -> Tensor:
        """States before the memory tokens, by which these are chosen, without dropout.

        Two thirds through the compressor: what a text is about is read off these more easily than
        off the last ones, which are about the next token (`docs/experiments.md`). Where latents
        enter a generator halfway there are no later ones than where they do.

        Args:
            batch: Texts; their memory tokens are left out.
            embedded_RTD: (R, T, D) their input embeddings, where they are at hand.

        Returns:
            (R, T', D) after the final norm, or as they enter a generator; T' the positions before
            the memory tokens of the longest text.
        """
        if embedded_RTD is None:
            embedded_RTD = self.memory.embed(batch.ids_RT, self.vocabulary)
        longest = int(batch.text_lengths_R.max())
        training = self.training
        if training:
            self.eval()
        with self.roles.use("compressor") as lm:
            states_RTD = self._through(
                lm,
                embedded_RTD[:, :longest],
                batch.text_lengths_R,
                n_layers=self._n_text_layers(lm),
            )
            states_RTD = self._told(lm, states_RTD)
        if training:
            self.train()
        return states_RTD.to(embedded_RTD.device)

    def _through(
        self,
        lm: Any,
        embedded_BTD: Tensor,
        lengths_B: Tensor,
        *,
        n_layers: int | None = None,
        positions_BT: Tensor | None = None,
        slot_BT: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) states after the final norm, or after the first `n_layers`, without a norm.

        Those behind a row's length may be missing. Positions ascend by one if None; at slots are
        latents, see `reading`.
        """
        if self.packed is not None:
            return self.packed(
                embedded_BTD,
                lengths_B,
                n_layers=n_layers,
                positions_BT=positions_BT,
                entering=None if slot_BT is None else (self.latent_layer, slot_BT),
            )
        inner = lm.model if n_layers is None else first_layers(lm.model, n_layers)
        if slot_BT is not None:
            inner, embedded_BTD = self.reading(lm, embedded_BTD, slot_BT)
        placed = {}
        if positions_BT is not None:
            # The mask says that a gap in the positions does not begin another text.
            placed = {
                "position_ids": positions_BT,
                "attention_mask": torch.ones_like(positions_BT),
            }
        states: Tensor = inner(inputs_embeds=embedded_BTD, use_cache=False, **placed)[0]
        return states

    def reading(self, lm: Any, embedded_BTD: Tensor, slot_BT: Tensor) -> tuple[Any, Tensor]:
        """The decoder that reads prompts with latents, and its input embeddings.

        Args:
            lm: The LM under the role that reads.
            embedded_BTD: (B, T, D) as `embed` gives them.
            slot_BT: (B, T) where latents are.
        """
        if not self.latent_layer or not bool(slot_BT.any()):
            return lm.model, embedded_BTD
        inputs_BTD = embedded_BTD.masked_fill(slot_BT.unsqueeze(-1), 0.0)
        return entering(lm.model, self.latent_layer, embedded_BTD, slot_BT), inputs_BTD

    def latents(self, memory_RMD: Tensor, carried: Carried, role: Role) -> Tensor:
        """(R, M, D) latents of anchored memory tokens from their (R, M, D) states."""
        latents_RMD, length = memory_RMD, STANDARD_LENGTH
        if not self.latent_layer:
            latents_RMD = memory_RMD + carried.embeddings_RMD / self.latent_gain
            length = LENGTH / self.latent_gain
        if role == "reasoner":
            return without_places(latents_RMD)
        return write_places(
            latents_RMD, carried.anchors.places_RM, n_places=self.memory.n_places, length=length
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
            (B, T, D) embeddings, with what enters halfway at its slots, and (B, T) by how much the
            rotary position of each is after the one before it, None where it is by one everywhere.
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
        latents_SD = without_places(latents_SD)
        if self.latent_layer:
            latents_SD = self.memory.restored(latents_SD)
        else:
            latents_SD = latents_SD * self.latent_gain
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
            states_BTD = self._through(
                lm,
                embedded_BTD,
                lengths_B,
                positions_BT=None if steps_BT is None else steps_BT.cumsum(1) - 1,
                slot_BT=batch.ids_BT == SLOT if self.latent_layer else None,
            )
            states_LD = states_BTD[:, :-1][labelled_BT]
            logits_LV = lm.lm_head(states_LD)
        if self.head_OD is not None:
            own_LO = states_LD @ self.head_OD.to(states_LD.dtype).T
            logits_LV = torch.cat([logits_LV, own_LO], dim=-1)
        return logits_LV.float(), batch.ids_BT[:, 1:][labelled_BT]


def _rows_at(x_RTD: Tensor, at_RM: Tensor) -> Tensor:
    """(R, M, D) of (R, T, D), at (R, M) positions."""
    return x_RTD.gather(1, at_RM.unsqueeze(-1).expand(-1, -1, x_RTD.shape[2]))
