"""What teaches the reasoner in the joint stage: the two paths of the paper's gradient coupling.

With the choice `p(d|x) = softmax(s_d / t)` and `L = -log p(y|x)`, `p(y|x) = sum_d p(d|x) p(y|x,d)`,
the gradient with regard to a score has two terms (paper, appendix on gradient coupling):

- the probability path, through which document is likely to be chosen,
  `-(1/t) p(d|x) [p(y|x,d) - p(y|x)] / p(y|x)`, which is `(1/t) [p(d|x) - p(d|x,y)]`;
- the representation path, through what the generator reads, `-d log p(y|x) / ds_d` of what the
  straight-through top-k selects. For one slot it is `-(1/t) p(d|x) g . (z_d - r)` with `g` the
  gradient of `log p(y|x)` at what was selected, and `r = sum_d p(d|x) z_d` the mean of the
  candidates' latents `z`.

This is the second term as in version 2 of the paper; version 3 prints the factor `p(d|x)` twice,
but all candidates share what is read, so one of the two sums to 1. The temperature stands in both
terms, since the choice has it in both. The stage's own loss, as that of the published code, holds
the second path alone: it is the gradient that reaches the reasoner. The first is measured beside
it, from the likelihood of the answer given each candidate by itself.

Legend: B questions, N candidates, M memory tokens, D width, T positions, L labelled positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openclara.data.batches import PromptBatch
from openclara.data.tokenizer import SEP, SLOT
from openclara.training.processes import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openclara.model.clara import ClaraModel


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Gradients of the loss with regard to one tensor, each of its shape, in float32."""

    representation: Tensor
    probability: Tensor

    def metrics(self, name: str) -> dict[str, float]:
        """Norms of both paths and of their sum, and the cosine between them (0 without one)."""
        first, second = self.representation.double().flatten(), self.probability.double().flatten()
        norms = float(first.norm()), float(second.norm())
        cosine = float(first @ second) / (norms[0] * norms[1]) if all(norms) else 0.0
        return {
            f"gradient_{name}_representation": norms[0],
            f"gradient_{name}_probability": norms[1],
            f"gradient_{name}_coupled": float((first + second).norm()),
            f"gradient_{name}_agreement": cosine,
        }


class Coupling:
    """Both paths of one micro-batch. Make it after the forward pass, read it after the backward.

    Args:
        model: The model; its generator reads each candidate once more, without gradient or dropout.
        prompts: Prompts of the batch, one for each question, all with as many slots.
        query_BMD: Latents of the questions, as in the graph of the loss.
        scores_BN: Scores of the candidates, as in the graph of the loss.
        latents_BNMD: (B, N, M, D) latents of the candidates.
        temperature: That of the top-k.
    """

    def __init__(
        self,
        model: ClaraModel,
        prompts: PromptBatch,
        *,
        query_BMD: Tensor,
        scores_BN: Tensor,
        latents_BNMD: Tensor,
        temperature: float,
    ) -> None:
        self._query_BMD, self._scores_BN = query_BMD, scores_BN
        z_BN = scores_BN.detach().float() / temperature
        self._prior_BN = torch.softmax(z_BN, dim=1)
        likelihood_BN = answer_log_likelihoods(model, prompts, latents_BNMD)
        posterior_BN = torch.softmax(z_BN + likelihood_BN, dim=1)
        # In the unit of the stage's loss, which is a mean over all labelled tokens of the batch.
        n_labels = prompts.target_mask_BT.sum()
        self._probability_BN = (self._prior_BN - posterior_BN) / (temperature * n_labels)
        # How scores depend on the question is the score's own affair: its graph knows.
        (self._probability_BMD,) = torch.autograd.grad(
            scores_BN, query_BMD, self._probability_BN.to(scores_BN.dtype), retain_graph=True
        )
        # Only now: what has just passed through the graph would be retained as well.
        query_BMD.retain_grad()
        scores_BN.retain_grad()

    def paths(self, *, scale: float = 1.0) -> dict[str, Paths]:
        """The paths with regard to the `scores` (B, N) and to the latents of the `query` (B, M, D).

        Args:
            scale: What the loss was divided by before its backward pass.

        Raises:
            ValueError: There was no backward pass yet.
        """
        if self._scores_BN.grad is None or self._query_BMD.grad is None:
            raise ValueError("the gradient is known after the backward pass only")
        return {
            "scores": Paths(self._scores_BN.grad.float() * scale, self._probability_BN),
            "query": Paths(self._query_BMD.grad.float() * scale, self._probability_BMD.float()),
        }

    def metrics(self, *, scale: float = 1.0) -> dict[str, float]:
        """Norms and agreement of the paths, and the mean entropy of the choice in nats."""
        entropy_B = torch.special.entr(self._prior_BN).sum(1)
        found = {"choice_entropy": float(entropy_B.mean())}
        for name, paths in self.paths(scale=scale).items():
            found |= paths.metrics(name)
        return found


@torch.no_grad()
def answer_log_likelihoods(model: ClaraModel, prompts: PromptBatch, latents_BNMD: Tensor) -> Tensor:
    """Log-likelihood of each question's answer given each of its candidates by itself.

    Args:
        model: The model.
        prompts: Prompts with targets, one for each question, all with as many slots.
        latents_BNMD: (B, N, M, D) latents of the candidates.

    Returns:
        (B, N) float32, in nats, summed over the tokens of the answer.
    """
    single = _with_one_document(prompts, latents_BNMD.shape[2])
    rows_L = single.target_mask_BT[:, 1:].nonzero()[:, 0]
    sums_BN = torch.zeros(latents_BNMD.shape[:2], device=latents_BNMD.device)
    training = model.training
    model.eval()
    # One candidate after the other: all at once would take N times the memory of a step.
    for n in range(latents_BNMD.shape[1]):
        latents_SD = model.in_reading_order(latents_BNMD[:, n])
        logits_LV, targets_L = model.answer_logits(single, latents_SD)
        losses_L = torch.nn.functional.cross_entropy(logits_LV, targets_L, reduction="none")
        sums_BN[:, n].index_add_(0, rows_L, -losses_L)
    model.train(training)
    return sums_BN


def _with_one_document(prompts: PromptBatch, n_memory: int) -> PromptBatch:
    """The same prompts with the slots of the first document alone."""
    ids_BT = prompts.ids_BT
    # What stands before the background is the same in all prompts.
    background_T = (ids_BT[0] == SLOT) | (ids_BT[0] == SEP)
    first, n_slots = int(background_T.int().argmax()), int(background_T.sum())
    at_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    kept_T = (at_T < first + n_memory + 1) | (at_T >= first + n_slots)
    n_dropped = int((~kept_T).sum()) * ids_BT.shape[0]
    return PromptBatch(
        ids_BT[:, kept_T], prompts.target_mask_BT[:, kept_T], prompts.n_tokens - n_dropped
    )


def role_norms(parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """Norm of the gradient of each role, from tensors named `{role}.{...}`, once there is one."""
    squares: dict[str, float] = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            key = f"gradient_norm_{name.partition('.')[0]}"
            square = whole(parameter.grad.float().square().sum())
            squares[key] = squares.get(key, 0.0) + float(square)
    return {key: square**0.5 for key, square in squares.items()}
