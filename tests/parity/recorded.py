"""What the published code computed on tiny checkpoints, and our parts set up to do the same.

Legend: R texts, B prompts, T positions, M memory tokens, D width, V ordinary tokens.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from openclara import Clara
from openclara.data.batches import PAD, PromptBatch, TextBatch, pad_right, prompt_batch
from openclara.data.published import (
    PARAPHRASES,
    SYSTEM_PARAPHRASE,
    SYSTEM_QA,
    SYSTEM_QUESTIONS,
    USER_QA,
    USER_QUESTIONS,
    blocks,
    pairs_text,
)
from openclara.data.tokenizer import ENC, MEM_0, SEP, SLOT
from openclara.model.adapters import AdapterRoles
from openclara.model.base import find_base, load_lm
from openclara.model.checkpoint import memory_table
from openclara.model.clara import ClaraModel
from openclara.model.generator import Decoding, Prompt, generate
from openclara.model.published.reading import read_any

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("OPENCLARA_PARITY", ROOT / ".." / "shared" / "parity"))
STAGES = ("stage1", "stage1_2", "stage2")
PRECISIONS = ("fp32", "bf16")
ABSENT = f"what the published code computed is not in {FOLDER}; set OPENCLARA_PARITY to its folder"
requires_recordings = pytest.mark.skipif(not (FOLDER / "base").is_dir(), reason=ABSENT)

MAX_NEW_TOKENS = 24
ADAPTER = {
    "compressor": "encoder_adapter",
    "reasoner": "query_reasoner_adapter",
    "generator": "decoder_adapter",
}


@dataclass(frozen=True)
class Tolerance:
    """By how much we may differ from what was recorded (README beside the recordings)."""

    mse: float
    scores: float
    loss: float
    nll: float
    logits: float
    margin: float = 0.0
    """Greedy tokens are compared up to the first step whose two best logits are nearer."""


TOLERANCES = {
    "fp32": Tolerance(mse=1e-5, scores=2e-6, loss=1e-4, nll=1e-4, logits=1e-4),
    "bf16": Tolerance(mse=0.01, scores=0.015, loss=0.02, nll=0.3, logits=0.4, margin=0.3),
}


def close_latents(ours_RMD: torch.Tensor, theirs_RMD: torch.Tensor, precision: str) -> None:
    ours, theirs = ours_RMD.float().flatten(1), theirs_RMD.float().flatten(1)
    if precision == "fp32":
        assert (ours - theirs).abs().max() <= 5e-5
        return
    assert (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt() <= 0.03
    assert torch.cosine_similarity(ours, theirs, dim=1).min() >= 0.999
    assert (ours - theirs).abs().max() <= 0.3


@dataclass
class Recording:
    """One stage in one precision, and the checkpoint it was made from."""

    stage: str
    precision: str
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        return FOLDER / self.stage / "checkpoint"

    @cached_property
    def record(self) -> dict[str, Any]:
        return json.loads((FOLDER / self.stage / f"record_{self.precision}.json").read_text())

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(FOLDER / self.stage / f"tensors_{self.precision}.safetensors")

    @cached_property
    def gradients(self) -> dict[str, torch.Tensor]:
        return load_file(FOLDER / self.stage / "grads_fp32.safetensors")

    @cached_property
    def clara(self) -> Clara:
        return Clara.load(str(self.checkpoint), device="cpu", precision=self.precision)

    @property
    def within(self) -> Tolerance:
        return TOLERANCES[self.precision]

    @cached_property
    def n_vocabulary(self) -> int:
        return self.record["token_ids"]["mem"][0]

    # -- their ids as ours ------------------------------------------------------------------------

    def own_id(self, token: int, *, memory: int | None) -> int:
        """One of their ids; `memory` stands for all memory tokens, None keeps them apart."""
        marks = self.record["token_ids"]
        special = {marks["enc"]: ENC, marks["sep"]: SEP}
        if token in marks["mem"]:
            return MEM_0 - marks["mem"].index(token) if memory is None else memory
        return special.get(token, token)

    def rows(self, name: str, *, memory: int | None = None) -> list[list[int]]:
        """Rows of a batch of theirs without padding, in our ids.

        `name` is that of its tensors up to `input_ids` and `attention_mask`.
        """
        ids, mask = (self.tensors[f"{name}{kind}"] for kind in ("input_ids", "attention_mask"))
        return [
            [self.own_id(i, memory=memory) for i, kept in zip(row, keep, strict=True) if kept]
            for row, keep in zip(ids.tolist(), mask.tolist(), strict=True)
        ]

    def text_batch(self, name: str) -> TextBatch:
        """Their encoder input as a batch of ours, texts that were cut included."""
        rows = self.rows(name)
        n_memory = len(self.record["token_ids"]["mem"])
        lengths_R = torch.tensor([len(row) - n_memory for row in rows])
        return TextBatch(
            pad_right(rows, value=PAD),
            lengths_R,
            lengths_R.unsqueeze(1) + torch.arange(n_memory),
        )

    # -- our computations -------------------------------------------------------------------------

    @torch.no_grad()
    def encoded(self, name: str, role: str) -> Any:
        key = f"{name} {role}"
        if key not in self.made:
            self.made[key] = self.clara.model.encode(self.text_batch(name), role)
        return self.made[key]

    @property
    def latents(self) -> torch.Tensor:
        """Latents of the recorded documents, cut as theirs are."""
        return self.encoded("enc/", "compressor").latents_RMD

    def prompts(self, name: str) -> list[Prompt]:
        """What the generator reads in one of the recorded generations."""
        generation = self.record["generation"][name]
        wording, questions = self.clara.wording, self.record["questions"]
        if "topk_idx" in generation:
            candidates = self.record["candidates"]
            chosen = [
                [candidates[row][i] for i in picked]
                for row, picked in enumerate(generation["topk_idx"])
            ]
        else:
            chosen = generation["documents"]
        prompts = []
        for row, documents in enumerate(chosen):
            size = {"n_documents": len(documents), "n_memory": self.latents.shape[1]}
            if name == "from_paraphrase":
                ids = wording.paraphrase(**size, template=generation["template_index_0based"])
            else:
                ids = wording.from_latents(questions[row], **size)
            latents_RMD = self.latents[documents]
            prompts.append(Prompt(ids, self.clara.model.in_reading_order(latents_RMD)))
        return prompts

    def written(self, prompts: list[Prompt]) -> list[list[int]]:
        """Greedy continuations, without the end of sequence."""
        steps = list(
            generate(
                self.clara.model,
                prompts,
                decoding=Decoding(max_new_tokens=MAX_NEW_TOKENS),
                stop_ids=self.clara.tokenizer.stop_ids,
            )
        )
        return [
            [step[row] for step in steps if step[row] is not None] for row in range(len(prompts))
        ]

    # -- training ---------------------------------------------------------------------------------

    def training_model(self) -> ClaraModel:
        """The model with its roles as adapters that gradients reach, without dropout."""
        checkpoint = read_any(self.checkpoint)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]
        lm = load_lm(find_base(checkpoint.card.base), device=torch.device("cpu"), dtype=dtype)
        roles = AdapterRoles(lm, rank=checkpoint.card.rank, alpha=checkpoint.card.alpha)
        for role, state in checkpoint.roles.items():
            roles.load(role, state)
        memory = memory_table(checkpoint, lm.get_input_embeddings().weight)
        return ClaraModel(roles, memory, head_OD=checkpoint.head).eval()

    def with_answers(self, batch: str) -> list[tuple[tuple[int, ...], int]]:
        """Prompts with their answers, and the lengths of the prompts, of a training batch."""
        wording = self.clara.wording
        texts = self.record["batches"][batch.removeprefix("batch_").removesuffix("_k1")]
        n_memory = len(self.record["token_ids"]["mem"])
        n_rows = len(texts["questions"])
        n_documents = self.n_shown(batch)
        made = []
        for row in range(n_rows):
            question, answer = texts["questions"][row], texts["answers"][row]
            system, user = SYSTEM_QA, USER_QA
            if batch.startswith("batch_paraphrase"):
                question, answer = "", answer[0]
                system, user = SYSTEM_PARAPHRASE, self._template(batch, row)
            elif self.stage == "stage1":
                question, answer = "", pairs_text(list(zip(question, answer, strict=True)))
                system, user = SYSTEM_QUESTIONS, USER_QUESTIONS
            docs = blocks(n_documents, n_memory)
            made.append(
                wording.with_answer(system, user, docs=docs, question=question, answer=answer)
            )
        return made

    def n_shown(self, batch: str) -> int:
        """Blocks in each prompt of a training batch."""
        return self.rows(f"{batch}/dec_", memory=SLOT)[0].count(SEP)

    def _template(self, batch: str, row: int) -> str:
        """Which request was drawn is not recorded, but every one reads differently."""
        text = self.clara.tokenizer.decode(
            [i for i in self.rows(f"{batch}/dec_", memory=SLOT)[row] if i >= 0]
        )
        ends = [template.rpartition("\ue000")[2] for template in PARAPHRASES]
        return max(
            (t for t, end in zip(PARAPHRASES, ends, strict=True) if f"{end} [/INST]" in text),
            key=len,
        )

    def prompt_batch(self, batch: str) -> PromptBatch:
        """Our batch of a training batch of theirs."""
        return prompt_batch(
            [[(ids[:n], False), (ids[n:], True)] for ids, n in self.with_answers(batch)]
        )
