"""Recipes: what to train and what to evaluate, as strict trees read from TOML."""

from __future__ import annotations

from openclara.config.evaluation import (
    ClosedSystem,
    DenseRanker,
    EvalConfig,
    FidelityConfig,
    LatentRanker,
    LatentSystem,
    PlainRanker,
    Ranker,
    Setting,
    System,
    TaskConfig,
    TextSystem,
)
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
    "ClosedSystem",
    "CompressStage",
    "DataConfig",
    "DenseRanker",
    "EvalConfig",
    "FidelityConfig",
    "InstructStage",
    "JointStage",
    "LatentRanker",
    "LatentSystem",
    "ModelConfig",
    "OptimConfig",
    "PlainRanker",
    "Ranker",
    "RunConfig",
    "RuntimeConfig",
    "Setting",
    "Stage",
    "SupervisedStage",
    "System",
    "TaskConfig",
    "TextStage",
    "TextSystem",
    "read_recipe",
]
