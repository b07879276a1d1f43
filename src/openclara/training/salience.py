"""Fits which tokens of a document are worth carrying, on the questions of the training records.

A token is positive where it stands in an answer, and in part where a question names it: the first
is what the generator must write, the second what the reasoner must find. The network reads the
base's embeddings, so tokens that no answer holds have a score too.

Legend: R texts, T positions, V vocabulary, D width, C channels.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from openclara.model.salience import CHANNELS, Salience, SalienceNetwork, seen_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from openclara.data.tokenizer import TextTokenizer
    from openclara.training.examples import Example

ASKED = 0.3
"""Label of the rarest token of a question where it stands in the document; others by weight."""

BATCH = 64
EPOCHS = 12
RATE = 5e-3
DROP = 0.15


def fit_salience(
    examples: Sequence[Example],
    tokenizer: TextTokenizer,
    vocabulary_VD: Tensor,
    weight_V: Tensor,
    *,
    seed: int,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> Salience:
    """Fit on the gold documents of all questions.

    Args:
        examples: The training records; without a question among them, rarity alone is learned.
        tokenizer: Tokenizer of the base.
        vocabulary_VD: (V, D) input embeddings of the base.
        weight_V: (V,) token weights, higher for rarer tokens.
        seed: Draws the weights and orders the documents.
        on_epoch: Called with the epochs done and all there are.
    """
    weight_V = weight_V.cpu()
    salience = Salience(vocabulary_VD.shape[0])
    salience.spell([tokenizer.decode([token]) for token in range(vocabulary_VD.shape[0])])
    words_VD = vocabulary_VD.detach().float().cpu()
    # How rare a token is says much, and is not easily read from its embedding.
    words_VD = torch.cat([words_VD / words_VD.std(), weight_V.log().unsqueeze(1)], dim=1)
    labelled = _labelled(examples, tokenizer, weight_V) or _rarity(examples, weight_V)
    # Of one length: padding costs, and attention sees it as well.
    labelled.sort(key=lambda one: len(one[0]))
    batches = [labelled[first : first + BATCH] for first in range(0, len(labelled), BATCH)]
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        read = nn.Linear(words_VD.shape[1], CHANNELS, bias=False)
        nn.init.normal_(read.weight, std=words_VD.shape[1] ** -0.5)
        network = _network()
        parameters = [*read.parameters(), *network.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, RATE, total_steps=EPOCHS * len(batches), pct_start=0.1
        )
        for epoch in range(EPOCHS):
            rng.shuffle(batches)
            for batch in batches:
                ids_RT, inside_RT, labels_RT = _batch(batch)
                rows_RTC = read(words_VD[ids_RT])
                logits_RT = network(rows_RTC, seen_before(ids_RT), inside_RT, drop=DROP)
                loss = binary_cross_entropy_with_logits(logits_RT[inside_RT], labels_RT[inside_RT])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
            on_epoch(epoch + 1, EPOCHS)
    with torch.no_grad():
        salience.rows_VC.copy_(read(words_VD))
    salience.network.load_state_dict(network.state_dict())
    return salience


def _network() -> SalienceNetwork:
    network = SalienceNetwork()
    # Few tokens are in an answer.
    nn.init.constant_(network.logit.bias, -2.0)
    return network


Labelled = tuple[tuple[int, ...], Tensor]


def _labelled(
    examples: Sequence[Example], tokenizer: TextTokenizer, weight_V: Tensor
) -> list[Labelled]:
    """Gold documents with a label for each token, between 0 and 1: the highest of all questions."""
    labels: dict[tuple[int, ...], Tensor] = {}
    for text, labels_T in _of_questions(examples, tokenizer, weight_V):
        known_T = labels.get(text, labels_T)
        labels[text] = torch.maximum(known_T, labels_T)
    return list(labels.items())


def _of_questions(
    examples: Sequence[Example], tokenizer: TextTokenizer, weight_V: Tensor
) -> Iterator[Labelled]:
    """The gold documents of each example with the labels that its questions give."""
    asked = [one for one in examples if one.is_question and one.gold]
    if not asked:
        return
    pairs = [pair for one in asked for pair in one.words]
    # As within a text: after a blank, and as at its start.
    questions = iter(tokenizer.encode([f" {question}" for question, _ in pairs]))
    inner = iter(tokenizer.encode([f" {answer}" for _, answer in pairs]))
    for example in asked:
        about: set[int] = set()
        answers: list[list[int]] = []
        for (_, answer), _ in zip(example.turns, example.words, strict=True):
            about.update(next(questions))
            answers += [answer, next(inner)]
        for at in example.gold:
            text = tuple(example.texts[at])
            if text:
                yield text, _labels(text, about, answers, weight_V)


def _labels(
    text: tuple[int, ...], about: set[int], answers: Sequence[list[int]], weight_V: Tensor
) -> Tensor:
    ids_T = torch.tensor(text)
    named_T = torch.tensor([token in about for token in text])
    labels_T = torch.where(named_T, ASKED * weight_V[ids_T], torch.zeros(len(text)))
    for answer in answers:
        n = len(answer)
        for start in range(len(text) - n + 1) if answer else ():
            if text[start : start + n] == tuple(answer):
                labels_T[start : start + n] = 1.0
    return labels_T


def _rarity(examples: Sequence[Example], weight_V: Tensor) -> list[Labelled]:
    """Documents whose tokens are labelled by how rare they are: no question says more."""
    texts = {tuple(text): None for example in examples for text in example.texts if text}
    return [(text, weight_V[list(text)]) for text in texts]


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
