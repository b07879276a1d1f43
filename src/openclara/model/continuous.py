"""Continuous decoding: a batch that prompts join and leave between any two steps.

Prompts are read padded on the right, where causal attention hides the padding, and kept from the
first position on; each answer has its own way of choosing tokens and its own end. So an answer is
what `generate` writes for its prompt alone, up to rounding, whatever it is batched with.

Legend: B answers, T positions, S positions kept, D width, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from openclara.data.batches import PAD
from openclara.data.tokenizer import SLOT
from openclara.errors import ModelError
from openclara.model.cache import RoomyLayer, roomy_cache
from openclara.model.generator import (
    LONG,
    Decoding,
    Prompt,
    choose,
    embed_ids,
    kept_start,
    make_chooser,
)
from openclara.model.ragged import RaggedCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.model.adapters import Role
    from openclara.model.clara import ClaraModel


@dataclass(slots=True, eq=False)
class Entry:
    """An answer being written.

    Attributes:
        prompt: What is continued.
        decoding: Length and choice of tokens; a seed makes the text repeatable whatever else is
            written beside it.
        stop_ids: Ids that end the answer; they are not written.
        written: Tokens so far.
        ended: Why it is complete: by a stop id, or by its length.
        ahead: By how much its rotary positions are ahead of the count of what it kept, as latents
            stand as far apart as what they carry.
    """

    prompt: Prompt
    decoding: Decoding
    stop_ids: frozenset[int]
    written: list[int] = field(default_factory=list)
    ended: Literal["stop", "length"] | None = None
    chooser: torch.Generator | None = None
    ahead: int = 0

    @property
    def position(self) -> int:
        """Where its last token is kept, which the next step reads."""
        return len(self.prompt.ids) + len(self.written) - 1

    def take(self, token: int) -> None:
        """The next token."""
        if token in self.stop_ids:
            self.ended = "stop"
            return
        self.written.append(token)
        if len(self.written) >= self.decoding.max_new_tokens:
            self.ended = "length"


class DecodingBatch:
    """Answers being written together. For one thread.

    Args:
        model: Base, roles and memory table.
        role: Whose adapter writes; None is the bare base.

    Raises:
        ModelError: The base has layers that keep something else than keys and values of every
            position.
    """

    def __init__(self, model: ClaraModel, role: Role | None = "generator") -> None:
        layers = roomy_cache(model.lm.config).layers
        if not all(type(layer) is RoomyLayer for layer in layers):
            raise ModelError(
                "this base does not attend to every position in every layer, so its answers cannot "
                "be written in a batch that changes; serve a model on another base"
            )
        self._model, self._role = model, role
        self._cache = RaggedCache(len(layers))
        # The place in the list is the row of the cache; None is a row that fell vacant.
        self._rows: list[Entry | None] = []

    def __len__(self) -> int:
        """Answers being written."""
        return sum(row is not None for row in self._rows)

    @property
    def entries(self) -> list[Entry]:
        """Answers being written."""
        return [row for row in self._rows if row is not None]

    @property
    def cache_bytes(self) -> int:
        """Memory held by keys and values."""
        return self._cache.nbytes

    @torch.inference_mode()
    def join(self, entries: Sequence[Entry]) -> None:
        """Read some prompts and write the first token of each; those that end at once stay out."""
        together: dict[tuple[int, ...], list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.decoding.max_new_tokens < 1:
                entry.ended = "length"
            else:
                together[_start_of(entry.prompt)].append(entry)
        for start, alike in together.items():
            self._read(alike, start)

    @torch.inference_mode()
    def step(self) -> None:
        """Write one more token of each answer; those that end leave."""
        self._close_up()
        entries = self.entries
        if not entries:
            return
        positions = [entry.position for entry in entries]
        self._cache.fit(len(entries), max(positions) + 1)
        self._cache.point(positions)
        device = self._model.memory.weight.device
        ids_B1 = torch.tensor([entry.written[-1:] for entry in entries], device=device)
        positions_B1 = torch.tensor(positions, device=device).unsqueeze(1)
        ahead_B1 = torch.tensor([[entry.ahead] for entry in entries], device=device)
        embedded_B1D = self._model.vocabulary(ids_B1)
        mask_B11S = _mask(positions_B1, embedded_B1D.dtype)
        with self._model.roles.use(self._role) as lm:
            states_B1D = lm.model(
                inputs_embeds=embedded_B1D,
                attention_mask=mask_B11S,
                position_ids=positions_B1 + ahead_B1,
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
            self._take(entries, lm.lm_head(states_B1D[:, 0]).float().to(device))

    def leave(self, entry: Entry) -> None:
        """Take an answer out, complete or not; its row is free from the next step on."""
        for row, there in enumerate(self._rows):
            if there is entry:
                self._rows[row] = None
        if not self.entries:
            self._rows.clear()
            self._cache.fit(0, 0)

    def _read(self, entries: list[Entry], start: tuple[int, ...]) -> None:
        """Read prompts that begin alike, beyond what is kept of their beginning."""
        model, prompts = self._model, [entry.prompt for entry in entries]
        cache = roomy_cache(model.lm.config)
        kept = kept_start(model, start, self._role) if start else []
        for layer, (keys, values) in zip(cache.layers, kept, strict=False):
            every = (len(prompts), -1, -1, -1)
            layer.update(keys.expand(every), values.expand(every))
        n_kept = cache.get_seq_length()
        embedded_BTD, positions_BT, slot_BT = _embedded(model, prompts, n_kept)
        device = embedded_BTD.device
        with model.roles.use(self._role) as lm:
            inner, embedded_BTD = model.reading(lm, embedded_BTD, slot_BT)
            states_BTD = inner(
                inputs_embeds=embedded_BTD,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            last_B = [len(prompt.ids) - n_kept - 1 for prompt in prompts]
            states_BD = states_BTD[range(len(prompts)), last_B]
            logits_BV = lm.lm_head(states_BD).float().to(device)
        ends = positions_BT[range(len(prompts)), last_B].tolist()
        for entry, end in zip(entries, ends, strict=True):
            entry.ahead = end - (len(entry.prompt.ids) - 1)
            if not entry.decoding.greedy:
                entry.chooser = make_chooser(entry.decoding, device)
        going_on = self._choose(entries, logits_BV)
        if not going_on:
            return
        if len(going_on) < len(entries):
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[going_on], layer.values[going_on]
        rows = self._seat([entries[at] for at in going_on], cache.get_seq_length())
        self._cache.put(rows, cache.layers)

    def _seat(self, entries: list[Entry], n_positions: int) -> list[int]:
        """Rows for new answers: the vacant ones, then new ones."""
        vacant = [row for row, entry in enumerate(self._rows) if entry is None]
        rows = vacant[: len(entries)]
        rows += range(len(self._rows), len(self._rows) + len(entries) - len(rows))
        self._rows += [None] * (max(rows) + 1 - len(self._rows))
        for row, entry in zip(rows, entries, strict=True):
            self._rows[row] = entry
        longest = max(entry.position + 1 for entry in self.entries)
        self._cache.fit(len(self._rows), max(n_positions, longest))
        return rows

    def _close_up(self) -> None:
        """Move the last answers into vacant rows before these."""
        n_rows = len(self)
        targets = [row for row in range(n_rows) if self._rows[row] is None]
        sources = [row for row in range(n_rows, len(self._rows)) if self._rows[row] is not None]
        if targets:
            self._cache.move(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self._rows[target] = self._rows[source]
        del self._rows[n_rows:]

    def _take(self, entries: list[Entry], logits_BV: Tensor) -> None:
        self._choose(entries, logits_BV)
        for entry in entries:
            if entry.ended:
                self.leave(entry)

    def _choose(self, entries: list[Entry], logits_BV: Tensor) -> list[int]:
        """Give each answer its next token; which of them go on."""
        likeliest = logits_BV.argmax(-1).tolist()
        for row, entry in enumerate(entries):
            token = likeliest[row]
            if entry.chooser is not None:
                token = int(choose(logits_BV[row : row + 1], entry.decoding, entry.chooser))
            entry.take(token)
        return [row for row, entry in enumerate(entries) if not entry.ended]


def _start_of(prompt: Prompt) -> tuple[int, ...]:
    """What is kept of a prompt's beginning; () where it is to be read whole."""
    return prompt.ids[: prompt.n_shared] if len(prompt.ids) <= LONG else ()


def _embedded(
    model: ClaraModel, prompts: Sequence[Prompt], n_kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts from a position on, padded on the right: (B, T, D) embeddings, positions, slots."""
    ids = [prompt.ids[n_kept:] for prompt in prompts]
    ids_BT = torch.full((len(ids), max(map(len, ids))), PAD, dtype=torch.long)
    for row, own in enumerate(ids):
        ids_BT[row, : len(own)] = torch.tensor(own)
    embedded_BTD, steps_BT = embed_ids(model, ids_BT, prompts)
    slot_BT = (ids_BT == SLOT).to(embedded_BTD.device)
    return embedded_BTD, n_kept - 1 + steps_BT.cumsum(1), slot_BT


def _mask(positions_B1: Tensor, dtype: torch.dtype) -> Tensor | None:
    """(B, 1, 1, S) added to scores: each row sees its own positions; None where all are as long."""
    width = int(positions_B1.max()) + 1
    if int(positions_B1.min()) + 1 == width:
        return None
    beyond_BS = torch.arange(width, device=positions_B1.device) > positions_B1
    floor = torch.finfo(dtype).min / 2
    mask_BS = torch.zeros(beyond_BS.shape, dtype=dtype, device=beyond_BS.device)
    return mask_BS.masked_fill_(beyond_BS, floor)[:, None, None]
