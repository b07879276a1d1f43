"""Fits which tokens of a document are worth carrying, on the questions of the training records.

A token is positive where it stands in an answer, and in part where a question names it: the first
is what the generator must write, the second what the reasoner must find. Weights are shared over
the vocabulary through the base's embeddings, so tokens that no answer holds have a score too.

Legend: R texts, T positions, K offsets, V vocabulary, D width, L decays.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from openclara.model.salience import DECAYS, OFFSETS, Salience, around, decays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.data.tokenizer import TextTokenizer
    from openclara.training.examples import Example

ASKED = 0.6
"""Label of the rarest token of a question where it stands in the document; others by weight."""

BATCH = 256
EPOCHS = 6
RATE = 0.04


def fit_salience(
    examples: Sequence[Example],
    tokenizer: TextTokenizer,
    vocabulary_VD: Tensor,
    weight_V: Tensor,
    *,
    seed: int,
) -> Salience:
    """Fit on the gold documents of all questions.

    Args:
        examples: The training records; without a question among them, rarity alone decides.
        tokenizer: Tokenizer of the base.
        vocabulary_VD: (V, D) input embeddings of the base.
        weight_V: (V,) token weights, higher for rarer tokens.
        seed: Orders the documents.
    """
    n_vocabulary = vocabulary_VD.shape[0]
    salience = Salience(n_vocabulary)
    salience.mark_line_ends([i for i in range(n_vocabulary) if "\n" in tokenizer.decode([i])])
    labelled = list(_labelled(examples, tokenizer, weight_V.cpu()))
    if not labelled:
        salience.around_VK[:, OFFSETS // 2] = weight_V
        return salience
    words_VD = vocabulary_VD.detach().float().cpu()
    words_VD = torch.cat([words_VD / words_VD.std(), weight_V.cpu().log().unsqueeze(1)], dim=1)
    by_offset_DK = nn.Parameter(torch.zeros(words_VD.shape[1], OFFSETS))
    lead_L = nn.Parameter(torch.zeros(len(DECAYS)))
    shift = nn.Parameter(torch.tensor(-2.0))
    optimizer = torch.optim.Adam([by_offset_DK, lead_L, shift], lr=RATE)
    n_steps = EPOCHS * -(-len(labelled) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=n_steps)
    rng = random.Random(seed)
    for _ in range(EPOCHS):
        rng.shuffle(labelled)
        for first in range(0, len(labelled), BATCH):
            ids_RT, inside_RT, labels_RT = _batch(labelled[first : first + BATCH])
            around_VK = words_VD @ (by_offset_DK * 0.1)
            logits_RT = around(around_VK, ids_RT, inside_RT)
            logits_RT = logits_RT + decays(ids_RT.shape[1]) @ lead_L + shift
            loss = binary_cross_entropy_with_logits(logits_RT[inside_RT], labels_RT[inside_RT])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        salience.around_VK.copy_(words_VD @ (by_offset_DK * 0.1))
        salience.lead_L.copy_(lead_L)
    return salience


Labelled = tuple[list[int], Tensor]


def _labelled(
    examples: Sequence[Example], tokenizer: TextTokenizer, weight_V: Tensor
) -> list[Labelled]:
    """Gold documents with a label for each token, between 0 and 1."""
    asked = [one for one in examples if one.is_question and one.gold]
    if not asked:
        return []
    pairs = [pair for one in asked for pair in one.words]
    # As within a text: after a blank, and as at its start.
    questions = iter(tokenizer.encode([f" {question}" for question, _ in pairs]))
    inner = iter(tokenizer.encode([f" {answer}" for _, answer in pairs]))
    found = []
    for example in asked:
        about: set[int] = set()
        answers: list[list[int]] = []
        for (_, answer), _ in zip(example.turns, example.words, strict=True):
            about.update(next(questions))
            answers += [answer, next(inner)]
        for at in example.gold:
            text = example.texts[at]
            if text:
                found.append((text, _labels(text, about, answers, weight_V)))
    return found


def _labels(
    text: list[int], about: set[int], answers: Sequence[list[int]], weight_V: Tensor
) -> Tensor:
    ids_T = torch.tensor(text)
    named_T = torch.tensor([token in about for token in text])
    labels_T = torch.where(named_T, ASKED * weight_V[ids_T], torch.zeros(len(text)))
    for answer in answers:
        n = len(answer)
        for start in range(len(text) - n + 1) if answer else ():
            if text[start : start + n] == answer:
                labels_T[start : start + n] = 1.0
    return labels_T


def _batch(labelled: Sequence[Labelled]) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(text) for text, _ in labelled)
    ids_RT = torch.zeros(len(labelled), longest, dtype=torch.long)
    inside_RT = torch.zeros(len(labelled), longest, dtype=torch.bool)
    labels_RT = torch.zeros(len(labelled), longest)
    for row, (text, labels_T) in enumerate(labelled):
        ids_RT[row, : len(text)] = torch.tensor(text)
        inside_RT[row, : len(text)] = True
        labels_RT[row, : len(text)] = labels_T
    return ids_RT, inside_RT, labels_RT
