"""The recipe of an evaluation: tasks, rankers and systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from openclara.config.strict import Strict

Setting = Literal["oracle", "normal", "gold"]
"""Where a question's candidates come from: its record, gold passages among them; the open corpus;
or the gold passages alone."""


class TaskConfig(Strict):
    """One data set."""

    name: str
    """As it is shown."""
    records: Path
    """Questions, in any form that `openclara train` reads; relative to `data_root`."""
    corpus: Path | None = None
    """JSON Lines of passages for the normal setting; the task is left out of it without one."""


class PlainRanker(Strict):
    """A ranker without a model.

    `given` keeps the record's order. `random` and `gold` are controls: what no ranker should fall
    below, and the labels themselves, which no ranker can surpass.
    """

    kind: Literal["given", "random", "bm25", "gold"]
    name: str
    """As it is shown, and as systems refer to it."""


class DenseRanker(Strict):
    """Cosine of a sentence encoder's vectors."""

    kind: Literal["dense"]
    name: str
    model: str
    """`all-minilm-l6-v2`, `all-mpnet-base-v2`, or a folder."""
    optional: bool = False
    """Leave it out, and say so, where the model is not there."""


class LatentRanker(Strict):
    """Cosine of the reasoner's latents with the stored ones; hybrid adds BM25 as a search does."""

    kind: Literal["latent", "hybrid"]
    name: str
    model: str = "smollm2-135m"
    """Zoo name, run folder or hub id."""
    n_memory: int | None = Field(None, ge=1)
    """Memory tokens to compare; the model's default if left out."""
    optional: bool = False
    """Leave it out, and say so, where the model is not there."""


class ClosedSystem(Strict):
    """No passage at all."""

    reader: Literal["none"]
    name: str
    model: str = "smollm2-135m"
    """Zoo name, run folder or hub id."""
    adapters: bool = True
    """False is the bare base."""
    optional: bool = False
    """Leave it out, and say so, where a model is not there."""


class TextSystem(Strict):
    """The chosen passages as text, whole or shortened."""

    reader: Literal["text"]
    name: str
    ranker: str
    """Which ranker chooses the passages."""
    model: str = "smollm2-135m"
    """Zoo name, run folder or hub id."""
    adapters: bool = True
    """False is the bare base."""
    shorten: Literal["cut", "sentences", "llmlingua"] | None = None
    """The first tokens of each passage; the sentences BM25 likes best; LLMLingua-2."""
    tokens_per_passage: int = Field(16, ge=1)
    """Budget when shortening: so many tokens for each passage, all passages together."""
    compressor: str | None = None
    """Folder or hub id of the LLMLingua-2 model."""
    optional: bool = False
    """Leave it out, and say so, where a model is not there."""


class LatentSystem(Strict):
    """The chosen passages as latents."""

    reader: Literal["latents"]
    name: str
    ranker: str
    """Which ranker chooses the passages."""
    model: str = "smollm2-135m"
    """Zoo name, run folder or hub id."""
    n_memory: int | None = Field(None, ge=1)
    """Latents of each stretch; the model's default if left out."""
    optional: bool = False
    """Leave it out, and say so, where the model is not there."""


class FidelityConfig(Strict):
    """Passages written again from their latents, to see what survives."""

    model: str = "smollm2-135m"
    """Zoo name, run folder or hub id."""
    n_memory: tuple[int, ...] = (16,)
    """Rates."""
    passages: int = Field(100, ge=1)
    """How many gold passages, drawn from all tasks."""
    optional: bool = False
    """Leave it out, and say so, where the model is not there."""


Ranker = Annotated[PlainRanker | DenseRanker | LatentRanker, Field(discriminator="kind")]
System = Annotated[ClosedSystem | TextSystem | LatentSystem, Field(discriminator="reader")]


class EvalConfig(Strict):
    """A whole evaluation."""

    output: Path
    """Folder for predictions, scores and report; run again, it goes on where it was left."""
    data_root: Path = Path("data")
    """Folder that the paths under [[tasks]] are relative to."""
    settings: tuple[Setting, ...] = Field(("oracle", "normal"), min_length=1)
    """Where candidates come from."""
    limit: int | None = Field(None, ge=1)
    """Questions of each task, drawn by seed; all if left out."""
    k: int = Field(5, ge=1)
    """Passages to answer from."""
    n_candidates: int = Field(10, ge=1)
    """Candidates that BM25 nominates from the corpus in the normal setting."""
    max_new_tokens: int = Field(24, ge=1)
    """Longest answer."""
    batch: int = Field(16, ge=1)
    """Questions answered at once."""
    seed: int = 0
    """Draws questions and random orders."""
    reference: str | None = None
    """System that all others are compared with, question by question."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `mps`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the models."""
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    """Data sets."""
    rankers: tuple[Ranker, ...] = Field(min_length=1)
    """What orders the candidates."""
    systems: tuple[System, ...] = Field(min_length=1)
    """What answers."""
    fidelity: FidelityConfig | None = None
    """How much of a passage survives its latents; left out if not given."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for what, names in (
            ("tasks", [task.name for task in self.tasks]),
            ("rankers", [ranker.name for ranker in self.rankers]),
            ("systems", [system.name for system in self.systems]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two {what} are named {name!r}; give each its own name")
        rankers = {ranker.name for ranker in self.rankers}
        for system in self.systems:
            if system.reader != "none" and system.ranker not in rankers:
                raise ValueError(
                    f"{system.name!r} names a ranker {system.ranker!r} that is not given"
                )
        if self.reference is not None and self.reference not in {s.name for s in self.systems}:
            raise ValueError(f"reference names a system {self.reference!r} that is not given")
        return self
