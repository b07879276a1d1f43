"""Training records of the three stages, in the published forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openclara.synthesis.candidates import beside, drawing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openclara.config import SynthesisConfig
    from openclara.synthesis.candidates import Finder
    from openclara.synthesis.composed import CheckedPair, Composed
    from openclara.synthesis.passages import Passage


def stage1(composed: Composed) -> Iterator[dict[str, Any]]:
    """Simple pairs, complex pairs and the paraphrase of a passage, a record each."""
    text = composed.passage.full_text
    for kind in ("simple", "complex"):
        pairs = [pair for pair in composed.pairs if pair.kind == kind]
        if pairs:
            yield {
                "data_type": "qa",
                "question": [pair.question for pair in pairs],
                "answers": [pair.answer for pair in pairs],
                "docs": [text],
            }
    if composed.paraphrase is not None:
        yield {
            "data_type": "paraphrase",
            "question": [""],
            "answers": [composed.paraphrase],
            "docs": [text],
        }


def drawn_pairs(composed: Composed, recipe: SynthesisConfig) -> list[CheckedPair]:
    """The pairs of a passage that become records of stages 2 and 3, in their order."""
    pairs, most = composed.pairs, recipe.candidates.per_passage
    if len(pairs) <= most:
        return list(pairs)
    rng = drawing(f"{recipe.seed} pairs {composed.passage.full_text}")
    return [pairs[at] for at in sorted(rng.sample(range(len(pairs)), most))]


def with_candidates(
    at: int,
    pair: CheckedPair,
    passages: Sequence[Passage],
    finder: Finder,
    recipe: SynthesisConfig,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of stages 2 and 3 of a pair.

    Both hold the answering passage at a random place among the best of the others.

    Args:
        at: Position of the answering passage.
        pair: The question and its answer.
        passages: All there are.
        finder: Ranks them.
        recipe: Says how many, and the seed.
    """
    rules = recipe.candidates
    others = beside(
        at,
        pair.question,
        pair.answer,
        passages,
        finder,
        rules,
        n_wanted=max(rules.k, rules.n_candidates) - 1,
        seed=recipe.seed,
    )
    return (
        _record(at, others[: rules.k - 1], pair, passages, f"{recipe.seed} stage 2"),
        _record(at, others[: rules.n_candidates - 1], pair, passages, f"{recipe.seed} stage 3"),
    )


def _record(
    at: int, others: Sequence[int], pair: CheckedPair, passages: Sequence[Passage], salt: str
) -> dict[str, Any]:
    order = [at, *others]
    drawing(f"{salt} {pair.question} {passages[at].full_text}").shuffle(order)
    return {
        "question": pair.question,
        "docs": [passages[one].full_text for one in order],
        "answer": pair.answer,
        "pos_index": [order.index(at)],
    }
