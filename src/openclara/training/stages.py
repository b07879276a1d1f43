"""The stages: which roles train, how examples become a batch, how a batch becomes a loss.

Legend: B questions, N candidates, K chosen documents, R texts, M memory tokens, D width.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from openclara.data.batches import prompt_batch, text_batch
from openclara.data.published import PublishedWording
from openclara.model.topk import select, straight_through_topk
from openclara.training.batches import WHOLE, StageBatch, StageLoss, Terms
from openclara.training.coupling import Coupling
from openclara.training.losses import alignment_loss, answer_loss, ranking_loss
from openclara.training.published_prompts import published_prompt

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from openclara.config import JointStage, Stage, SupervisedStage
    from openclara.data.batches import TextBatch
    from openclara.data.tokenizer import TextTokenizer
    from openclara.data.wording import Wording
    from openclara.model.adapters import Role
    from openclara.model.clara import ClaraModel
    from openclara.training.examples import Example

PROMPT_MARGIN = 40
"""Positions of a prompt that come from the template, for estimating the cost of an example."""


def _contrast(stage: Stage) -> float:
    """Weight of the contrastive loss, 0 where a stage has none."""
    return stage.contrast if stage.kind == "compress" or stage.kind == "instruct" else 0.0


class Collator:
    """Makes batches of one stage.

    Args:
        stage: The stage's part of the recipe.
        tokenizer: Tokenizer of the base.
        wording: Prompts of the model; our own if None.
        query_n_memory: Memory tokens of a question; None for as many as a document has.
    """

    def __init__(
        self,
        stage: Stage,
        tokenizer: TextTokenizer,
        wording: Wording | None = None,
        *,
        query_n_memory: int | None = None,
    ) -> None:
        self.stage = stage
        self.tokenizer = tokenizer
        self.wording = wording
        self.query_n_memory = query_n_memory

    def cost(self, example: Example, n_memory: int) -> int:
        """Estimated positions of an example over all forward passes."""
        longest = max(len(text) for text in example.texts)
        n_read = min(self._n_read(), len(example.texts))
        written = sum(len(q) + len(a) + 12 for q, a in self._turns(example)) + PROMPT_MARGIN
        if self.stage.kind == "text":
            return n_read * (longest + 2) + written
        read = n_read * (longest + n_memory + 3)
        if self.stage.kind == "supervised":
            return read + written + n_memory
        # Half of the prompts get none of the others' documents, and the rest any number.
        n_shown = self._n_shown(n_read) + (self._room(n_read) + 1) // 4
        return read + n_shown * (n_memory + 1) + written

    def batch(
        self, examples: Sequence[Example], *, n_memory: int, rng: random.Random
    ) -> StageBatch:
        """Choose documents, frame texts and prompts.

        Args:
            examples: The records of the batch.
            n_memory: Memory tokens for each text, the batch's rate.
            rng: Chooses and orders the documents.
        """
        kind, n_read = self.stage.kind, self._n_read()
        ranks = kind in ("joint", "supervised")
        if ranks:
            # One rectangular score matrix: every question gets as many candidates.
            n_read = min(n_read, *(len(example.texts) for example in examples))
        chosen = [self._documents(example, n_read, rng) for example in examples]
        pairs = list(zip(examples, chosen, strict=True))
        documents = questions = prompts = relevant_BN = shown_S = None
        if kind != "text":
            texts = [example.texts[i] for example, ids in pairs for i in ids]
            documents = self._text_batch(texts, n_memory)
        query_n_memory = self.query_n_memory or n_memory
        if ranks:
            asked = [example.turns[0][0] for example in examples]
            questions = self._text_batch(asked, query_n_memory)
        if _contrast(self.stage) > 0.0:
            relevant, asked = self._contrasted(pairs, rng)
            if asked:
                questions = self._text_batch(asked, query_n_memory)
                relevant_BN = torch.tensor(relevant)
        if kind == "supervised":
            relevant_BN = torch.tensor([[i in example.gold for i in ids] for example, ids in pairs])
        else:
            shown = chosen
            if self.stage.kind == "read" and self.stage.distractors == "batch":
                at = itertools.count()
                own = [[next(at) for _ in ids] for ids in chosen]
                shown = [self._among_others(ids, own, rng) for ids in own]
                shown_S = torch.tensor([i for ids in shown for i in ids])
            prompts = prompt_batch(
                [
                    self._prompt(*pair, len(ids), n_memory, rng)
                    for pair, ids in zip(pairs, shown, strict=True)
                ]
            )
        n_documents = tuple(len(ids) for ids in chosen)
        return StageBatch(documents, prompts, n_documents, questions, relevant_BN, shown_S)

    def _among_others(
        self, own: Sequence[int], of_all: Sequence[Sequence[int]], rng: random.Random
    ) -> list[int]:
        """The documents of an example, every other time with some of the others' among them."""
        others = [i for ids in of_all if ids is not own for i in ids]
        most = min(self._room(len(own)), len(others))
        if most == 0 or rng.random() < 0.5:
            return list(own)
        shown = [*own, *rng.sample(others, rng.randint(1, most))]
        rng.shuffle(shown)
        return shown

    def _room(self, n_own: int) -> int:
        """How many documents of other examples a prompt may hold besides."""
        if self.stage.kind == "read" and self.stage.distractors == "batch":
            return max(0, self.stage.k - n_own)
        return 0

    def _contrasted(
        self, pairs: Sequence[tuple[Example, list[int]]], rng: random.Random
    ) -> tuple[list[list[bool]], list[list[int]]]:
        """A question of each example that has one, and which documents of the batch answer it."""
        columns = [(at, i) for at, (_, ids) in enumerate(pairs) for i in ids]
        rows, asked = [], []
        for at, (example, _) in enumerate(pairs):
            row = [owner == at and i in example.gold for owner, i in columns]
            if example.is_question and any(row) and not all(row):
                rows.append(row)
                asked.append(rng.choice(self._turns(example))[0])
        return rows, asked

    def usable(self, example: Example) -> bool:
        """Whether a stage can learn from an example: labels need right and wrong candidates."""
        if self.stage.kind != "supervised":
            return True
        return 0 < len(example.gold) < min(self.stage.n_candidates, len(example.texts))

    def _text_batch(self, texts: Sequence[list[int]], n_memory: int) -> TextBatch:
        tokenizer = self.tokenizer
        return text_batch(texts, n_memory=n_memory, bos=tokenizer.bos, eos=tokenizer.eos)

    def _n_shown(self, n_documents: int) -> int:
        return min(self.stage.k, n_documents) if self.stage.kind == "joint" else n_documents

    def _turns(self, example: Example) -> tuple[tuple[list[int], list[int]], ...]:
        if self.stage.kind == "joint" or self.stage.kind == "supervised":
            return example.turns[:1]
        return example.turns[: self.stage.max_pairs]

    def _n_read(self) -> int:
        """Documents that are read for each example, where it has so many."""
        match self.stage.kind:
            case "compress":
                return 1
            case "instruct" | "read" | "text":
                return self.stage.k
            case "joint" | "supervised":
                return self.stage.n_candidates

    def _documents(self, example: Example, n_shown: int, rng: random.Random) -> list[int]:
        """Positions of the documents an example is shown: all gold ones first to be kept."""
        gold = list(example.gold[:n_shown])
        others = [i for i in range(len(example.texts)) if i not in gold]
        rng.shuffle(others)
        shown = gold + others[: n_shown - len(gold)]
        rng.shuffle(shown)
        return shown

    def _prompt(
        self,
        example: Example,
        documents: Sequence[int],
        n_shown: int,
        n_memory: int,
        rng: random.Random,
    ) -> list[tuple[Sequence[int], bool]]:
        if isinstance(self.wording, PublishedWording):
            pairs = self.stage.max_pairs if self.stage.kind == "compress" else None
            docs = (self._n_shown(n_shown), n_memory)
            return published_prompt(self.wording, example, docs=docs, pairs=pairs, rng=rng)
        chat = self.tokenizer.chat
        if self.stage.kind == "text":
            background = chat.text_background([example.texts[i] for i in documents])
        else:
            background = chat.background(self._n_shown(n_shown), n_memory)
        stretches: list[tuple[Sequence[int], bool]] = [
            (chat.before_background, False),
            (background, False),
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


def trained_roles(stage: Stage) -> tuple[Role, ...]:
    """Roles that learn in a stage; the others are frozen (paper, section 3)."""
    match stage.kind:
        case "joint":
            return ("reasoner", "generator")
        case "read" | "text":
            return ("generator",)
        case "supervised":
            return ("reasoner",)
    if _contrast(stage) > 0.0:
        return ("compressor", "reasoner", "generator")
    return ("compressor", "generator")


class StageModule(nn.Module):
    """A model and a stage as one module whose forward pass is the loss.

    Args:
        model: Base, adapters and memory table.
        stage: The stage's part of the recipe.

    Attributes:
        watching: Whether the next forward passes of the joint stage are looked into.
        coupling: What was seen in the last of them; None if there was none.
    """

    def __init__(self, model: ClaraModel, stage: Stage) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.watching = False
        self.coupling: Coupling | None = None

    @property
    def trained_roles(self) -> tuple[Role, ...]:
        """Roles that learn in this stage."""
        return trained_roles(self.stage)

    @property
    def trains_memory(self) -> bool:
        """Whether the memory table learns; it must not where stored latents are to stay valid."""
        return "compressor" in self.trained_roles

    @property
    def loss_name(self) -> str:
        """The part of the loss that validation reports."""
        return "ranking" if self.stage.kind == "supervised" else "answer"

    def forward(self, batch: StageBatch, shares: Terms = WHOLE) -> StageLoss:
        """Loss of one micro-batch.

        Args:
            batch: The micro-batch.
            shares: What each part counts, where the micro-batch is one of several of a step.
        """
        match self.stage.kind:
            case "joint":
                loss = self._joint(batch, self.stage)
                return loss._replace(total=loss.total * shares.answers)
            case "supervised":
                loss = self._supervised(batch, self.stage)
                return loss._replace(total=loss.total * shares.questions)
            case "text":
                loss = self._answer(batch, None)
                return loss._replace(total=loss.total * shares.answers)
            case "read":
                loss = self._answer(batch, self._stored(batch))
                return loss._replace(total=loss.total * shares.answers)
        assert batch.documents is not None
        encoded = self.model.encode(batch.documents, "compressor")
        answer = self._answer(batch, encoded.latents_RMD)
        alignment = alignment_loss(encoded.text_mean_RD, encoded.memory_mean_RD)
        total = answer.total * shares.answers + self.stage.alignment * shares.texts * alignment
        parts = {**answer.parts, "alignment": alignment.item()}
        if self.stage.contrast > 0.0:
            contrast = self._contrast(batch, encoded.latents_RMD, self.stage.temperature)
            total = total + self.stage.contrast * shares.questions * contrast
            parts["contrast"] = contrast.item()
        return StageLoss(total, parts)

    def _contrast(self, batch: StageBatch, latents_NMD: Tensor, temperature: float) -> Tensor:
        """Loss of finding each question's passages among all of the batch."""
        if batch.questions is None or batch.relevant_BN is None:
            return torch.zeros((), device=latents_NMD.device)
        questions = self.model.encode(batch.questions, "reasoner")
        n_questions = questions.latents_RMD.shape[0]
        scores_BN = self.model.scores(questions, latents_NMD.expand(n_questions, -1, -1, -1))
        return ranking_loss(scores_BN, batch.relevant_BN, temperature=temperature)

    def _answer(self, batch: StageBatch, latents_NMD: Tensor | None) -> StageLoss:
        """Loss of the answers, from the latents in the slots or from what the prompts hold."""
        assert batch.prompts is not None
        if latents_NMD is not None and batch.shown_S is not None:
            latents_NMD = latents_NMD[batch.shown_S]
        latents_SD = None if latents_NMD is None else self.model.in_reading_order(latents_NMD)
        logits_LV, targets_L = self.model.answer_logits(batch.prompts, latents_SD)
        answer = answer_loss(logits_LV, targets_L)
        return StageLoss(answer, {"answer": answer.item()})

    def _joint(self, batch: StageBatch, stage: JointStage) -> StageLoss:
        scores_BN, query_BMD, latents_BNMD = self._scored(batch)
        weights_BKN = straight_through_topk(
            scores_BN, k=min(stage.k, scores_BN.shape[1]), temperature=stage.temperature
        )
        loss = self._answer(batch, select(weights_BKN, latents_BNMD).flatten(0, 1))
        if self.watching:
            assert batch.prompts is not None
            # Last: nothing of the loss may depend on being looked into.
            self.coupling = Coupling(
                self.model,
                batch.prompts,
                query_BMD=query_BMD,
                scores_BN=scores_BN,
                latents_BNMD=latents_BNMD,
                temperature=stage.temperature,
            )
        return loss

    def _supervised(self, batch: StageBatch, stage: SupervisedStage) -> StageLoss:
        assert batch.relevant_BN is not None
        scores_BN, _, _ = self._scored(batch)
        ranking = ranking_loss(scores_BN, batch.relevant_BN, temperature=stage.temperature)
        return StageLoss(ranking, {"ranking": ranking.item()})

    def _scored(self, batch: StageBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N) scores of questions with their candidates, and the latents of both."""
        assert batch.questions is not None
        latents_RMD = self._stored(batch)
        latents_BNMD = latents_RMD.view(-1, batch.n_documents[0], *latents_RMD.shape[1:])
        questions = self.model.encode(batch.questions, "reasoner")
        scores_BN = self.model.scores(questions, latents_BNMD)
        return scores_BN, questions.latents_RMD, latents_BNMD

    def _stored(self, batch: StageBatch) -> Tensor:
        """(R, M, D) latents as an index would hold them: frozen, and without dropout.

        The published code leaves dropout on.
        """
        assert batch.documents is not None
        training = self.training
        with torch.no_grad():
            self.model.eval()
            latents_RMD = self.model.encode(batch.documents, "compressor").latents_RMD
            self.model.train(training)
        return latents_RMD
