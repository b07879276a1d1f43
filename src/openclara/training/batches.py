"""What a stage computes on: one micro-batch, its loss, and what that loss is a mean of.

Legend: B questions, N candidates or documents, S documents in the prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from openclara.data.batches import PromptBatch, TextBatch


class Terms(NamedTuple):
    """How many terms each part of a loss is the mean of, or their share of an optimizer step's.

    Attributes:
        answers: Target tokens of the answers.
        texts: Documents that are aligned.
        questions: Questions that are contrasted with documents.
    """

    answers: float
    texts: float
    questions: float

    def shares(self, totals: Terms, *, n_processes: int = 1) -> Terms:
        """What each part counts in the loss of an optimizer step.

        Args:
            totals: Terms of all micro-batches of the step, over all processes.
            n_processes: Gradients are averaged over so many, which is made good here.
        """
        pairs = zip(self, totals, strict=True)
        return Terms(*(own * n_processes / total if total else 0.0 for own, total in pairs))


WHOLE = Terms(1.0, 1.0, 1.0)
"""The shares of a micro-batch that is a step by itself."""

PART_TERMS = {"answer": 0, "alignment": 1, "contrast": 2, "ranking": 2}
"""Which of the `Terms` a part of the loss is a mean of."""


@dataclass(frozen=True, slots=True, eq=False)
class StageBatch:
    """One micro-batch.

    What a stage has no use for is None.

    Attributes:
        documents: All documents of all examples, in order, for the compressor.
        prompts: What the generator reads and must write.
        n_documents: Documents of each example (all equal where they are chosen from).
        questions: Questions as texts for the reasoner.
        relevant_BN: (B, N) which documents are gold: of a question's own candidates where they
            are chosen from, of all documents of the batch for the contrastive loss.
        shown_S: (S,) which documents fill the slots of the prompts, one prompt after the other;
            None where it is every one once, in order.
    """

    documents: TextBatch | None
    prompts: PromptBatch | None
    n_documents: tuple[int, ...]
    questions: TextBatch | None = None
    relevant_BN: Tensor | None = None
    shown_S: Tensor | None = None

    @property
    def n_tokens(self) -> int:
        """Positions that carry something, over all forward passes of the batch."""
        parts = (self.documents, self.prompts, self.questions)
        return sum(part.n_tokens for part in parts if part is not None)

    @property
    def terms(self) -> Terms:
        """What the parts of the batch's loss are means of."""
        return Terms(
            0 if self.prompts is None else int(self.prompts.target_mask_BT.sum()),
            0 if self.documents is None else len(self.documents.text_lengths_R),
            0 if self.relevant_BN is None else len(self.relevant_BN),
        )

    def to(self, device: torch.device | str) -> StageBatch:
        """The same batch on a device."""
        return StageBatch(
            None if self.documents is None else self.documents.to(device),
            None if self.prompts is None else self.prompts.to(device),
            self.n_documents,
            None if self.questions is None else self.questions.to(device),
            None if self.relevant_BN is None else self.relevant_BN.to(device),
            None if self.shown_S is None else self.shown_S.to(device),
        )


class StageLoss(NamedTuple):
    """Loss to minimise, and its parts for the log, each a plain mean.

    A tuple, because wrappers around a module look for tensors in tuples alone.
    """

    total: Tensor
    parts: dict[str, float]
