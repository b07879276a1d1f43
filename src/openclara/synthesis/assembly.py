"""The files that come out: records of three stages, and what was rejected."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from openclara.synthesis.candidates import LatentFinder, WordFinder
from openclara.synthesis.records import drawn_pairs, stage1, with_candidates
from openclara.synthesis.shards import LineFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from openclara.config import SynthesisConfig
    from openclara.synthesis.candidates import Finder
    from openclara.synthesis.composed import Composed
    from openclara.synthesis.passages import Passage

PARTS = ("train", "held_out")
REJECTED = "rejected.jsonl"
CANDIDATES_INDEX = "candidates.index"


def assemble(
    folder: Path,
    composed: Iterable[Composed],
    passages: Sequence[Passage],
    recipe: SynthesisConfig,
    *,
    on_passage: Callable[[Composed], None] = lambda composed: None,
) -> dict[str, int]:
    """Write `stage1`, `stage2` and `stage3`, each `.train` and `.held_out`, and `rejected.jsonl`.

    All show under their names once they are whole.

    Args:
        folder: Where to.
        composed: What became of each passage, in their order.
        passages: All of them: candidates are searched here.
        recipe: Says how many candidates.
        on_passage: Called with each.

    Returns:
        Records of each file.
    """
    names = [f"stage{stage}.{part}.jsonl.gz" for stage in (1, 2, 3) for part in PARTS]
    with ExitStack() as stack:
        finder = stack.enter_context(_finder(folder, passages, recipe))
        files = {name: stack.enter_context(LineFile(folder / name)) for name in names}
        rejected = stack.enter_context(LineFile(folder / REJECTED))
        for at, one in enumerate(composed):
            part = PARTS[one.passage.held_out]
            for record in stage1(one):
                files[f"stage1.{part}.jsonl.gz"].write(record)
            for pair in drawn_pairs(one, recipe):
                second, third = with_candidates(at, pair, passages, finder, recipe)
                files[f"stage2.{part}.jsonl.gz"].write(second)
                files[f"stage3.{part}.jsonl.gz"].write(third)
            for item in one.rejected:
                rejected.write({"passage": one.passage.id, **asdict(item)})
            on_passage(one)
    return {name: file.n_lines for name, file in files.items()} | {REJECTED: rejected.n_lines}


@contextmanager
def _finder(folder: Path, passages: Sequence[Passage], recipe: SynthesisConfig) -> Iterator[Finder]:
    if recipe.candidates.model is None:
        with WordFinder(passages) as by_words:
            yield by_words
        return
    from openclara.pipeline import Clara

    yield LatentFinder(passages, Clara.load(recipe.candidates.model), folder / CANDIDATES_INDEX)
