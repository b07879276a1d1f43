"""Records as token ids, ordered into batches of like length."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from openclara.data.prompts import PARAPHRASE_REQUEST, REPEAT_REQUEST
from openclara.data.records import group_by_passage, read_records
from openclara.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from openclara.config import DataConfig, RunConfig
    from openclara.data.records import Record
    from openclara.data.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Example:
    """One record as ids.

    Attributes:
        texts: Ids of each candidate document.
        gold: Positions in `texts` that hold the answer.
        turns: (question ids, answer ids) of each pair.
        is_question: False where the request is not a question of the data (a paraphrase).
        held_out: Kept for validation.
        words: (question, answer) of each pair as text, for prompts that are tokenised whole.
    """

    texts: tuple[list[int], ...]
    gold: tuple[int, ...]
    turns: tuple[tuple[list[int], list[int]], ...]
    is_question: bool
    held_out: bool
    words: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Examples:
    """What a recipe's files hold, and what of it was left out because it is too long."""

    training: tuple[Example, ...]
    held_out: tuple[Example, ...]
    n_too_long: int


def load_examples(recipe: RunConfig, tokenizer: TextTokenizer) -> Examples:
    """Read and tokenise the files of a recipe.

    A record whose only passage, or whose gold passage, is longer than the model's document
    length is left out and counted, never cut: its answer might stand in the part cut off. Other
    passages that are too long are dropped from the candidates.

    Raises:
        DataError: Nothing is left to train on.
    """
    kept: list[Example] = []
    n_too_long = 0
    for data in recipe.data:
        records = list(_records(data, recipe))
        examples = _tokenise(records, recipe, tokenizer)
        n_too_long += len(records) - len(examples)
        kept += examples * data.repeat
    training = tuple(example for example in kept if not example.held_out)
    if not training:
        raise DataError("the recipe's files hold no record that fits; check [[data]] and sources")
    return Examples(training, tuple(example for example in kept if example.held_out), n_too_long)


def _records(data: DataConfig, recipe: RunConfig) -> Iterable[Record]:
    path = recipe.data_root / data.path
    made_here = not path.exists() and data.path.exists()
    records = read_records(data.path if made_here else path)
    wanted = (
        record for record in records if not data.sources or record.source.startswith(data.sources)
    )
    grouped = list(group_by_passage(wanted))
    if data.limit is not None and data.limit < len(grouped):
        return random.Random(recipe.runtime.seed).sample(grouped, data.limit)
    return grouped


def _tokenise(
    records: Sequence[Record], recipe: RunConfig, tokenizer: TextTokenizer
) -> list[Example]:
    longest = recipe.model.doc_max_length
    texts = [passage.full_text for record in records for passage in record.passages]
    ids = iter(tokenizer.encode(texts))
    in_other_words, word_for_word = tokenizer.encode([PARAPHRASE_REQUEST, REPEAT_REQUEST])
    examples = []
    for record in records:
        passages = [(passage, next(ids)) for passage in record.passages]
        fitting = [(passage, text) for passage, text in passages if len(text) <= longest]
        gold = tuple(i for i, (passage, _) in enumerate(fitting) if passage.gold)
        n_gold = sum(passage.gold for passage in record.passages)
        if not fitting or len(gold) < n_gold:
            continue
        if record.paraphrase is not None:
            same = record.paraphrase == record.passages[0].text
            request = word_for_word if same else in_other_words
            turns = [(request, tokenizer.encode([record.paraphrase])[0])]
            words = [(PARAPHRASE_REQUEST, record.paraphrase)]
        else:
            words = [(pair.question, pair.answers[0]) for pair in record.pairs]
            questions = tokenizer.encode([pair.question for pair in record.pairs])
            answers = tokenizer.encode([pair.answers[0] for pair in record.pairs])
            turns = list(zip(questions, answers, strict=True))
        examples.append(
            Example(
                texts=tuple(text for _, text in fitting),
                gold=gold or ((0,) if len(fitting) == 1 else ()),
                turns=tuple(turns),
                is_question=record.paraphrase is None,
                held_out=is_held_out(record, recipe.runtime.held_out),
                words=tuple(words),
            )
        )
    return examples


def count_tokens(examples: Sequence[Example], n_vocabulary: int) -> Tensor:
    """(n_vocabulary,) how often each token occurs in the documents of the examples."""
    ids = [i for example in examples for text in example.texts for i in text]
    return torch.bincount(torch.tensor(ids), minlength=n_vocabulary)


def is_held_out(record: Record, part: float) -> bool:
    """Whether a record is kept for validation, by hash of its first gold passage.

    So it is kept across files, orders and recipes.

    Args:
        record: The record.
        part: How many are kept, `runtime.held_out` of the recipe.
    """
    key = next((p for p in record.passages if p.gold), record.passages[0]).text
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < part


def epoch_order(costs: Sequence[int], *, batch_cost: int, seed: int, epoch: int) -> list[list[int]]:
    """Positions of examples, in batches of like cost whose padded sum stays within `batch_cost`.

    Shuffled by seed and epoch alone, so a resumed run finds the same batches. A batch holds at
    least one example, whatever it costs.
    """
    rng = random.Random(seed * 1_000_003 + epoch)
    order = list(range(len(costs)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    window = 1024
    for start in range(0, len(order), window):
        batch: list[int] = []
        for at in sorted(order[start : start + window], key=lambda i: costs[i]):
            # Sorted upwards, so the newcomer sets the padded length of the whole batch.
            if batch and costs[at] * (len(batch) + 1) > batch_cost:
                batches.append(batch)
                batch = []
            batch.append(at)
        batches.append(batch)
    rng.shuffle(batches)
    return batches
