"""A teacher on this machine: any causal LM with a chat template, many tasks decoded together."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import jinja2

from openclara.errors import ModelError
from openclara.synthesis.tasks import Reply, Spent
from openclara.synthesis.teachers.local_prompts import (
    DEMONSTRATIONS,
    SYSTEM,
    local_prompts_version,
    write_local_request,
)
from openclara.synthesis.teachers.reading import read_reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openclara.data.tokenizer import TextTokenizer
    from openclara.model.clara import ClaraModel
    from openclara.model.generator import Prompt
    from openclara.synthesis.tasks import Task, TaskKind

_LENGTHS: Final[dict[TaskKind, int]] = {"answer": 32, "judge_pair": 4, "judge_paraphrase": 4}
"""Most tokens of what is short by nature."""
_AGAIN: Final = 0.7
"""Temperature of a repetition, which greedy decoding would only repeat."""
_MARK: Final = "\ue000turn\ue000"


class LocalTeacher:
    """A model that is loaded when the first task comes and stays loaded.

    Tasks are decoded longest first, in batches of prompts of about one length. A greedy reply does
    not depend on what is beside it in the batch, up to rounding; a sampled one does.

    Args:
        base: Zoo name, folder or hub id, as of `find_base`.
        device: `auto`, `cpu`, `cuda` and so on.
        precision: `auto`, `fp32` or `bf16`.
        batch_size: Tasks that are decoded together.
        temperature: For questions and paraphrases; answers and verdicts are always greedy.
        seed: Of sampling.
        max_tokens: Most tokens of a reply.

    Raises:
        ModelError: The base or the device is not there.
    """

    def __init__(
        self,
        base: str,
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 8,
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int = 256,
    ) -> None:
        from openclara.model.base import find_base

        self._source = find_base(base)
        self._device, self._precision = device, precision
        self._batch_size, self._max_tokens = batch_size, max_tokens
        self._temperature, self._seed = temperature, seed
        self._turns: dict[TaskKind, tuple[list[int], list[int]]] = {}
        self.name = base
        self.width = 4 * batch_size
        parts = [self._source.sha256, precision, batch_size, temperature, seed, max_tokens]
        said = json.dumps([*parts, local_prompts_version()])
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()

    def perform(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Reply]]:
        """As in `Teacher`.

        Raises:
            ModelError: The base is damaged, has no chat template or does not fit the device.
        """
        prompts = [self._prompt(task) for task in tasks]
        # Judges write two tokens where others write hundreds: they are not to wait for each other.
        order = sorted(
            range(len(tasks)),
            key=lambda at: (self._most(tasks[at]), tasks[at].round > 0, len(prompts[at].ids)),
            reverse=True,
        )
        start = 0
        while start < len(order):
            batch = [order[start]]
            for position in order[start + 1 : start + self._batch_size]:
                if self._decoded_alike(tasks[batch[0]], tasks[position]):
                    batch.append(position)
            start += len(batch)
            yield from self._decode(batch, tasks, prompts)

    def _most(self, task: Task) -> int:
        return min(_LENGTHS.get(task.kind, self._max_tokens), self._max_tokens)

    def _warmth(self, task: Task) -> float:
        if task.kind in _LENGTHS:
            return 0.0
        return max(self._temperature, _AGAIN) if task.round else self._temperature

    def _decoded_alike(self, one: Task, other: Task) -> bool:
        return (self._most(one), self._warmth(one)) == (self._most(other), self._warmth(other))

    def _decode(
        self, batch: list[int], tasks: Sequence[Task], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[int, Reply]]:
        from openclara.model.generator import Decoding, generate

        first = tasks[batch[0]]
        written: list[list[int]] = [[] for _ in batch]
        steps = generate(
            self._model,
            [prompts[position] for position in batch],
            decoding=Decoding(
                max_new_tokens=self._most(first),
                temperature=self._warmth(first),
                seed=self._seed + first.round,
            ),
            stop_ids=self._tokenizer.stop_ids,
            role=None,
        )
        for step in steps:
            for row, token in enumerate(step):
                if token is not None:
                    written[row].append(token)
        for position, ids in zip(batch, written, strict=True):
            yield position, self._read(tasks[position], ids, len(prompts[position].ids))

    def _read(self, task: Task, ids: list[int], prompt_tokens: int) -> Reply:
        spent = Spent(prompt_tokens, len(ids), 1)
        text = self._tokenizer.decode(ids)
        cut_off = len(ids) >= self._most(task)
        if cut_off and task.kind in ("simple_qa", "complex_qa"):
            # The last line is half a question.
            text = text.rpartition("\n")[0] or text
        if task.kind == "answer":
            # Small models go on and explain.
            text = text.strip().partition("\n")[0]
        reply = read_reply(task.kind, text)
        if reply is None or (cut_off and task.kind in ("answer", "paraphrase")):
            what = f"was cut off at {len(ids)} tokens" if cut_off else "held nothing usable"
            return Reply(failed=True, reason=f"the reply {what}", spent=spent)
        return Reply(reply.questions, reply.text, reply.verdict, reply.reason, spent=spent)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        from openclara.data.tokenizer import TextTokenizer
        from openclara.model.base import load_tokenizer

        return TextTokenizer(load_tokenizer(self._source))

    @cached_property
    def _model(self) -> ClaraModel:
        from openclara.model.base import choose_device, choose_dtype, load_lm
        from openclara.model.clara import ClaraModel
        from openclara.model.memory import MemoryTable
        from openclara.model.merged import MergedRoles

        device = choose_device(self._device)
        dtype = choose_dtype(device, self._precision)
        lm = load_lm(self._source, device=device, dtype=dtype)
        width = lm.get_input_embeddings().weight.shape[1]
        # No roles and no memory tokens: the generator asks for both, the bare base uses neither.
        memory = MemoryTable(0, width).to(device)
        return ClaraModel(MergedRoles(lm, states={}, scale=1.0), memory).eval()

    def _turn(self, kind: TaskKind) -> tuple[list[int], list[int]]:
        """Ids of the conversation before and behind the user's words."""
        if kind not in self._turns:
            inner: Any = self._tokenizer.inner
            turns = []
            for shown, reply in DEMONSTRATIONS[kind]:
                turns += [
                    {"role": "user", "content": write_local_request(shown)},
                    {"role": "assistant", "content": reply},
                ]
            turns += [{"role": "user", "content": _MARK}]
            try:
                system = {"role": "system", "content": SYSTEM}
                rendered = inner.apply_chat_template(
                    [system, *turns], tokenize=False, add_generation_prompt=True
                )
            except jinja2.TemplateError:  # some templates know no system turn
                rendered = inner.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=True
                )
            before, found, after = rendered.partition(_MARK)
            if not found:
                raise ModelError(f"the chat template of {self.name} drops the user's words")
            first, last = (
                inner(text, add_special_tokens=False, verbose=False)["input_ids"]
                for text in (before, after)
            )
            self._turns[kind] = first, last
        return self._turns[kind]

    def _prompt(self, task: Task) -> Prompt:
        from openclara.model.generator import Prompt

        before, after = self._turn(task.kind)
        said = self._tokenizer.encode([write_local_request(task)])[0]
        return Prompt(ids=(*before, *said, *after))
