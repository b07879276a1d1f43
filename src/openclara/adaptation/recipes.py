"""The recipes that an adaptation is made of, as values: two short runs and an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from openclara.config import (
    CompressStage,
    DataConfig,
    EvalConfig,
    InstructStage,
    LatentRanker,
    LatentSystem,
    OptimConfig,
    PassagesConfig,
    PlainRanker,
    QualityConfig,
    RunConfig,
    RuntimeConfig,
    SynthesisConfig,
    TaskConfig,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.config import AdaptConfig
    from openclara.model.checkpoint import Card

BEFORE, AFTER = "before", "after"
"""The model that was given and the one that was made, as the report names them."""

CONTRAST = 0.3
"""Weight of the contrastive loss, as in the recipes of the shipped model."""

MIN_COVERAGE = 0.2
"""Of a passage's facts, below which its pairs are left out: what prose explains is no fact."""

BATCH_TOKENS = 3072
"""Padded positions of a step, as there."""


def synthesis_recipe(config: AdaptConfig, card: Card) -> SynthesisConfig:
    """Records of the corpus for the model of that card, a part of its documents held out."""
    return SynthesisConfig(
        output=config.output / "records",
        documents=config.corpus,
        limit=config.limit,
        held_out=config.held_out,
        seed=config.seed,
        passages=PassagesConfig(base=card.base, doc_max_length=card.doc_max_length),
        quality=QualityConfig(min_coverage=MIN_COVERAGE),
        teacher=config.teacher,
    )


def compress_recipe(config: AdaptConfig, *records: Path) -> RunConfig:
    """Stage 1 on the corpus: passages go through latents; answers, or they themselves, come out."""
    stage = CompressStage(
        kind="compress", question_targets=False, contrast=CONTRAST, alignment=config.alignment
    )
    return _recipe(config, "compress", config.model, stage, config.compress_steps, records)


def instruct_recipe(config: AdaptConfig, records: Path) -> RunConfig:
    """Stage 2 on the corpus: answers come from several documents, distractors among them."""
    stage = InstructStage(kind="instruct", contrast=CONTRAST, alignment=config.alignment)
    parent = str(config.output / "compress")
    return _recipe(config, "instruct", parent, stage, config.instruct_steps, (records,))


def _recipe(
    config: AdaptConfig,
    name: str,
    parent: str,
    stage: CompressStage | InstructStage,
    steps: int,
    records: Sequence[Path],
) -> RunConfig:
    return RunConfig(
        output=config.output / name,
        init_from=parent,
        n_memory=config.n_memory,
        stage=stage,
        data=tuple(DataConfig(path=path.resolve()) for path in records),
        optim=OptimConfig(lr=config.lr, steps=steps, batch_tokens=BATCH_TOKENS),
        runtime=RuntimeConfig(
            seed=config.seed, save_every=20, validate_every=max(20, steps // 2), log_every=5
        ),
    )


def evaluation_recipe(config: AdaptConfig, held_out: Path | None) -> EvalConfig:
    """Both models on questions about passages that no training has seen.

    They answer from the gold passages, which leaves search out, and from what their own reasoner
    chooses among each question's candidates.
    """
    adapted = str(config.output / "instruct")
    tasks = []
    if config.questions is not None:
        tasks.append(TaskConfig(name="own questions", records=config.questions.resolve()))
    if held_out is not None:
        tasks.append(TaskConfig(name="held-out records", records=held_out.resolve()))
    rankers: list[PlainRanker | LatentRanker] = [
        PlainRanker(kind="random", name="random"),
        PlainRanker(kind="bm25", name="BM25"),
        PlainRanker(kind="gold", name="gold"),
    ]
    systems = []
    for name, model in ((BEFORE, config.model), (AFTER, adapted)):
        rankers.append(LatentRanker(kind="latent", name=f"reasoner {name}", model=model))
        for ranker in ("gold", f"reasoner {name}"):
            read = "gold passages" if ranker == "gold" else "its own choice"
            systems.append(
                LatentSystem(
                    reader="latents", name=f"{name}, from {read}", ranker=ranker, model=model,
                    n_memory=config.eval_n_memory,
                )
            )  # fmt: skip
    return EvalConfig(
        output=config.output / "evaluation",
        data_root=Path(),
        settings=("oracle",),
        limit=config.eval_limit,
        k=config.k,
        reference=f"{BEFORE}, from gold passages",
        tasks=tuple(tasks),
        rankers=tuple(rankers),
        systems=tuple(systems),
    )
