"""Training prompts in the published words, for models that go on from a published checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from openclara.data.published import PublishedWording
    from openclara.training.examples import Example

Stretches = list[tuple["Sequence[int]", bool]]


def published_prompt(
    wording: PublishedWording,
    example: Example,
    *,
    docs: tuple[int, int],
    pairs: int | None,
    rng: random.Random,
) -> Stretches:
    """One prompt as stretches of ids and whether they are learned.

    Args:
        wording: The published prompts on the base's tokenizer.
        example: The record; its words are tokenised together with those around them.
        docs: Blocks of slots, and slots in each.
        pairs: The generator writes this many questions with their answers; it answers the first
            question if None.
        rng: Draws the request for a paraphrase.
    """
    question, answer = example.words[0]
    if not example.is_question:
        user = PARAPHRASES[rng.randrange(len(PARAPHRASES))]
        system, question = SYSTEM_PARAPHRASE, ""
    elif pairs is not None:
        # Other than our own prompts these hold all questions and answers in one turn.
        system, user, question = SYSTEM_QUESTIONS, USER_QUESTIONS, ""
        answer = pairs_text(example.words[:pairs])
    else:
        system, user = SYSTEM_QA, USER_QA
    ids, n_prompt = wording.with_answer(
        system, user, docs=blocks(*docs), question=question, answer=answer
    )
    return [(ids[:n_prompt], False), (ids[n_prompt:], True)]
