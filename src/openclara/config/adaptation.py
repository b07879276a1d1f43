"""What makes a model at home in a corpus."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from openclara.config.strict import Strict
from openclara.config.synthesis import RulesTeacher, TeacherConfig


class AdaptConfig(Strict):
    """One corpus, one model, and how much work is put into them."""

    corpus: tuple[str, ...] = Field(min_length=1)
    """Files or folders of documents, in any form that an index takes."""
    output: Path = Path("runs/adapted")
    """Folder for records, runs and the evaluation; run again, it goes on where it was left."""
    model: str = "smollm2-135m"
    """Zoo name, run folder or hub id of the model to start from."""
    teacher: TeacherConfig = RulesTeacher(kind="rules")
    """Who makes the records."""
    questions: Path | None = None
    """Own questions with their passages, asked before and after; never trained on."""
    limit: int | None = Field(None, ge=1)
    """Documents of the corpus that records are made from; all if left out."""
    held_out: float = Field(0.1, gt=0, lt=0.5)
    """Part of the documents that is kept for the evaluation."""
    compress_steps: int = Field(120, ge=1)
    """Optimizer steps of the compress stage."""
    instruct_steps: int = Field(60, ge=1)
    """Optimizer steps of the instruct stage."""
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate: lower than in a first training, so that what was learned stays."""
    alignment: float = Field(0.1, ge=0)
    """As in the stages."""
    n_memory: tuple[int, ...] = Field((16, 32, 64, 64), min_length=1)
    """As in a run."""
    eval_limit: int = Field(200, ge=1)
    """Questions of each kind that are asked before and after."""
    eval_n_memory: int | None = Field(None, ge=1)
    """Latents of a stretch while they are asked; the model's default if left out."""
    k: int = Field(5, ge=1)
    """Passages to answer from."""
    seed: int = 42
    """Seeds records, training and the choice of questions."""
