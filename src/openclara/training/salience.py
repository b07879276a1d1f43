"""Fits which tokens of a document are worth carrying, on the questions of the training records.

A token is positive where it stands in an answer, and in part where a question names it: the first
is what the generator must write, the second what the reasoner must find. The network reads what the
compressor made of the text, which knows more of it than can be learned from some thousand passages
(`docs/experiments.md`).

Legend: R texts, T positions, N tokens of some texts, V vocabulary, D width.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from openclara.data.batches import text_batch
from openclara.model.memory import BEFORE_TEXT
from openclara.model.salience import Salience, SalienceNetwork, seen_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from openclara.data.tokenizer import TextTokenizer
    from openclara.model.clara import ClaraModel
    from openclara.training.examples import Example

ASKED = 0.75
"""Label of the rarest token of a question where it stands in the document; others by weight."""

BATCH = 64
EPOCHS = 4
RATE = 5e-3
DROP = 0.15

READ_AT_ONCE = 32
"""Texts that go through the compressor together."""
PARTS = 10
"""How often progress is told."""


def fit_salience(
    examples: Sequence[Example],
    tokenizer: TextTokenizer,
    weight_V: Tensor,
    read: Callable[[list[tuple[int, ...]]], list[Tensor]],
    *,
    seed: int,
    on_part: Callable[[int, int], None] = lambda done, total: None,
) -> Salience:
    """Fit on the gold documents of all questions.

    Their states are kept in main memory, two bytes a coordinate.

    Args:
        examples: The training records; without a question among them, rarity alone is learned.
        tokenizer: Tokenizer of the base.
        weight_V: (V,) token weights, higher for rarer tokens.
        read: Gives the (T, D) states of each of some texts, see `states_of`.
        seed: Draws the weights and orders the documents.
        on_part: Called with the parts done and all there are.
    """
    weight_V = weight_V.cpu()
    labelled = _labelled(examples, tokenizer, weight_V) or _rarity(examples, weight_V)
    # Of one length: padding costs, and attention sees it as well.
    labelled.sort(key=lambda one: len(one[0]))
    texts = [text for text, _ in labelled]
    at_once = [texts[at : at + READ_AT_ONCE] for at in range(0, len(texts), READ_AT_ONCE)]
    batches = [range(at, min(at + BATCH, len(texts))) for at in range(0, len(texts), BATCH)]
    tell = _telling(len(at_once) + EPOCHS * len(batches), on_part)
    states: list[Tensor] = []
    for some in at_once:
        states += read(some)
        tell()
    salience = Salience(len(weight_V), states[0].shape[1])
    salience.spell([tokenizer.decode([token]) for token in range(len(weight_V))])
    mean_D, spread_D = _spread(states)
    salience.mean_D.copy_(mean_D)
    salience.spread_D.copy_(spread_D)
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(len(mean_D))
        parameters = list(network.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, RATE, total_steps=EPOCHS * len(batches), pct_start=0.1
        )
        for _ in range(EPOCHS):
            rng.shuffle(batches)
            for batch in batches:
                ids_RT, inside_RT, labels_RT = _batch([labelled[at] for at in batch])
                padded_RTD = nn.utils.rnn.pad_sequence([states[at] for at in batch], True)
                inputs_RTD = salience.inputs(padded_RTD)
                logits_RT = network(inputs_RTD, seen_before(ids_RT), inside_RT, drop=DROP)
                loss = binary_cross_entropy_with_logits(logits_RT[inside_RT], labels_RT[inside_RT])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                tell()
    salience.network.load_state_dict(network.state_dict())
    return salience


def states_of(
    model: ClaraModel, tokenizer: TextTokenizer
) -> Callable[[list[tuple[int, ...]]], list[Tensor]]:
    """What gives the (T, D) bf16 states of each of some texts under the compressor, on the CPU."""

    def read(texts: list[tuple[int, ...]]) -> list[Tensor]:
        batch = text_batch(texts, n_memory=1, bos=tokenizer.bos, eos=tokenizer.eos)
        states_RTD = model.text_states(batch.to(model.memory.weight.device)).bfloat16().cpu()
        return [
            row_TD[BEFORE_TEXT : BEFORE_TEXT + len(text)].clone()
            for row_TD, text in zip(states_RTD, texts, strict=True)
        ]

    return read


def _telling(total: int, on_part: Callable[[int, int], None]) -> Callable[[], None]:
    """What counts to `total` and tells each tenth that is done."""
    done = 0

    def tell() -> None:
        nonlocal done
        before, done = PARTS * done // total, done + 1
        if PARTS * done // total > before:
            on_part(PARTS * done // total, PARTS)

    return tell


def _spread(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each coordinate, over the tokens of some of the texts."""
    some_ND = torch.cat(list(states[:: max(1, len(states) // 500)])).float()
    spread_D = some_ND.std(0) if len(some_ND) > 1 else torch.ones(some_ND.shape[1])
    return some_ND.mean(0), spread_D


def _network(width: int) -> SalienceNetwork:
    network = SalienceNetwork(width)
    nn.init.normal_(network.read.weight, std=width**-0.5)
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
