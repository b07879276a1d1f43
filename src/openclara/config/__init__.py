"""Recipes: what to train and what to evaluate, as strict trees read from TOML."""

from __future__ import annotations

from openclara.config.strict import read_recipe
from openclara.config.training import (
    CompressStage,
    DataConfig,
    InstructStage,
    JointStage,
    ModelConfig,
    OptimConfig,
    RunConfig,
    RuntimeConfig,
    Stage,
    SupervisedStage,
    TextStage,
)

__all__ = [
    "CompressStage",
    "DataConfig",
    "InstructStage",
    "JointStage",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "RuntimeConfig",
    "Stage",
    "SupervisedStage",
    "TextStage",
    "read_recipe",
]
