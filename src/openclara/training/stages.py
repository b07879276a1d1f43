"""The three stages: which roles train, how examples become a batch, how a batch becomes a loss.

Legend: B questions, N candidates, K chosen documents, R texts, M memory tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from openclara.data.batches import PromptBatch, TextBatch, prompt_batch, text_batch
from openclara.model.topk import cosine_scores, select, straight_through_topk
from openclara.training.losses import alignment_loss, answer_loss

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from openclara.config import CompressStage, InstructStage, JointStage
    from openclara.data.tokenizer import TextTokenizer
    from openclara.model.adapters import Role
    from openclara.model.clara import ClaraModel
    from openclara.training.examples import Example

PROMPT_MARGIN = 40
"""Positions of a prompt that come from the template, for estimating the cost of an example."""


@dataclass(frozen=True, slots=True, eq=False)
class StageBatch:
    """One micro-batch.

    Attributes:
        documents: All documents of all examples, in order.
        questions: The questions as texts for the reasoner; joint stage only.
        prompts: What the generator reads and must write.
        n_documents: Documents of each example (all equal in the joint stage).
    """

    documents: TextBatch
    prompts: PromptBatch
    n_documents: tuple[int, ...]
    questions: TextBatch | None = None

    @property
    def n_tokens(self) -> int:
        """Positions that carry something, over all forward passes of the batch."""
        asked = 0 if self.questions is None else self.questions.n_tokens
        return self.documents.n_tokens + self.prompts.n_tokens + asked

    def to(self, device: torch.device | str) -> StageBatch:
        """The same batch on a device."""
        return StageBatch(
            self.documents.to(device),
            self.prompts.to(device),
            self.n_documents,
            None if self.questions is None else self.questions.to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class StageLoss:
    """Loss to minimise, and its parts for the log."""

    total: Tensor
    parts: dict[str, float]


class Collator:
    """Makes batches of one stage.

    Args:
        stage: The stage's part of the recipe.
        tokenizer: Tokenizer of the base.
    """

    def __init__(
        self, stage: CompressStage | InstructStage | JointStage, tokenizer: TextTokenizer
    ) -> None:
        self.stage = stage
        self.tokenizer = tokenizer

    def cost(self, example: Example, n_memory: int) -> int:
        """Estimated positions of an example over all forward passes."""
        turns = self._turns(example)
        written = sum(len(q) + len(a) + 12 for q, a in turns)
        most = 1 if self.stage.kind == "compress" else self.stage.k
        n_chosen = min(most, len(example.texts))
        longest = max(len(text) for text in example.texts)
        read = min(self._n_read(), len(example.texts)) * (longest + n_memory + 3)
        return read + n_chosen * (n_memory + 1) + written + PROMPT_MARGIN

    def batch(
        self, examples: Sequence[Example], *, n_memory: int, rng: random.Random
    ) -> StageBatch:
        """Choose documents, frame texts and prompts.

        Args:
            examples: The records of the batch.
            n_memory: Memory tokens for each text, the batch's rate.
            rng: Chooses and orders the documents.
        """
        n_shown = self._n_read()
        if self.stage.kind == "joint":
            # One rectangular score matrix: every question gets as many candidates.
            n_shown = min(n_shown, *(len(example.texts) for example in examples))
        chosen = [self._documents(example, n_shown, rng) for example in examples]
        texts = [
            example.texts[i] for example, ids in zip(examples, chosen, strict=True) for i in ids
        ]
        n_documents = tuple(len(ids) for ids in chosen)
        questions = None
        if self.stage.kind == "joint":
            questions = self._text_batch([example.turns[0][0] for example in examples], n_memory)
        return StageBatch(
            documents=self._text_batch(texts, n_memory),
            prompts=prompt_batch(
                [
                    self._prompt(example, self._n_shown(n), n_memory)
                    for example, n in zip(examples, n_documents, strict=True)
                ]
            ),
            n_documents=n_documents,
            questions=questions,
        )

    def _text_batch(self, texts: Sequence[list[int]], n_memory: int) -> TextBatch:
        tokenizer = self.tokenizer
        return text_batch(texts, n_memory=n_memory, bos=tokenizer.bos, eos=tokenizer.eos)

    def _n_shown(self, n_documents: int) -> int:
        return min(self.stage.k, n_documents) if self.stage.kind == "joint" else n_documents

    def _turns(self, example: Example) -> tuple[tuple[list[int], list[int]], ...]:
        n_pairs = self.stage.max_pairs if self.stage.kind == "compress" else 1
        return example.turns[:n_pairs]

    def _n_read(self) -> int:
        """Documents that are compressed for each example, where it has so many."""
        if self.stage.kind == "compress":
            return 1
        return self.stage.k if self.stage.kind == "instruct" else self.stage.n_candidates

    def _documents(self, example: Example, n_shown: int, rng: random.Random) -> list[int]:
        """Positions of the documents an example is shown: all gold ones first to be kept."""
        gold = list(example.gold[:n_shown])
        others = [i for i in range(len(example.texts)) if i not in gold]
        rng.shuffle(others)
        shown = gold + others[: n_shown - len(gold)]
        rng.shuffle(shown)
        return shown

    def _prompt(
        self, example: Example, n_documents: int, n_memory: int
    ) -> list[tuple[Sequence[int], bool]]:
        chat = self.tokenizer.chat
        stretches: list[tuple[Sequence[int], bool]] = [
            (chat.before_background, False),
            (chat.background(n_documents, n_memory), False),
        ]
        learn_questions = self.stage.kind == "compress" and self.stage.question_targets
        end, rest = chat.after_answer[:1], chat.after_answer[1:]
        for at, (question, answer) in enumerate(self._turns(example)):
            before = chat.before_question if at == 0 else (*rest, *chat.before_next_question)
            stretches += [
                (before, False),
                (question, learn_questions and example.is_question),
                (chat.before_answer, False),
                ((*answer, *end), True),
            ]
        return stretches


class StageModule(nn.Module):
    """A model and a stage as one module whose forward pass is the loss.

    Args:
        model: Base, adapters and memory table.
        stage: The stage's part of the recipe.
    """

    def __init__(
        self, model: ClaraModel, stage: CompressStage | InstructStage | JointStage
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage

    @property
    def trained_roles(self) -> tuple[Role, ...]:
        """Roles that learn in this stage; the others are frozen (paper, section 3)."""
        if self.stage.kind == "joint":
            return ("reasoner", "generator")
        return ("compressor", "generator")

    @property
    def trains_memory(self) -> bool:
        """Whether the memory table learns; the joint stage keeps stored latents valid."""
        return self.stage.kind != "joint"

    def forward(self, batch: StageBatch) -> StageLoss:
        """Loss of one micro-batch."""
        if self.stage.kind == "joint":
            return self._joint(batch, self.stage)
        encoded = self.model.encode(batch.documents, "compressor")
        logits_LV, targets_L = self.model.answer_logits(
            batch.prompts, self.model.in_reading_order(encoded.latents_RMD)
        )
        answer = answer_loss(logits_LV, targets_L)
        alignment = alignment_loss(encoded.text_mean_RD, encoded.memory_mean_RD)
        total = answer + self.stage.alignment * alignment
        return StageLoss(total, {"answer": answer.item(), "alignment": alignment.item()})

    def _joint(self, batch: StageBatch, stage: JointStage) -> StageLoss:
        assert batch.questions is not None
        n_candidates = batch.n_documents[0]
        training = self.training
        with torch.no_grad():
            # Frozen and, unlike the published code, without dropout: the stored latents.
            self.model.eval()
            latents_RMD = self.model.encode(batch.documents, "compressor").latents_RMD
            self.model.train(training)
        latents_BNMD = latents_RMD.view(-1, n_candidates, *latents_RMD.shape[1:])
        query_BMD = self.model.encode(batch.questions, "reasoner").latents_RMD
        weights_BKN = straight_through_topk(
            cosine_scores(query_BMD, latents_BNMD),
            k=min(stage.k, n_candidates),
            temperature=stage.temperature,
        )
        chosen_BKMD = select(weights_BKN, latents_BNMD)
        logits_LV, targets_L = self.model.answer_logits(
            batch.prompts, self.model.in_reading_order(chosen_BKMD.flatten(0, 1))
        )
        answer = answer_loss(logits_LV, targets_L)
        return StageLoss(answer, {"answer": answer.item()})
