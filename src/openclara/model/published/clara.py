"""The layout that the published CLaRa code writes (`model_type` "CLaRa")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from openclara.data.wording import PUBLISHED
from openclara.errors import FormatError
from openclara.model.published.layout import (
    CONFIG,
    PublishedLayout,
    Settings,
    field,
    number_of_memory_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openclara.model.adapters import Role

ROLES: Final[dict[str, tuple[Role, ...]]] = {
    "decoder_adapter": ("generator",),
    "encoder_adapter": ("compressor",),
    "query_reasoner_adapter": ("reasoner",),
}
STAGES: Final = {
    "stage1": "compress",
    "stage1_2": "instruct",
    "stage2_pretrain_retrieval": "supervised",
    "stage2": "joint",
}
"""Their stages and ours; the stage steers training alone, never which roles are loaded."""


def settings(config: Mapping[str, Any]) -> Settings:
    """What a config of this family says.

    Raises:
        FormatError: A field is missing or wrong, or asks for what no published checkpoint has.
    """
    if not field(config, "lora", bool, default=False):
        raise FormatError(
            f"{CONFIG} says that the model was trained without LoRA; only checkpoints of adapters "
            "can be read"
        )
    length, n_memory = number_of_memory_tokens(config)
    rank: int = field(config, "lora_r", int, default=16)
    kbtc = field(config, "kbtc_training", bool, default=False)
    return Settings(
        base=field(config, "decoder_model_name", str),
        doc_max_length=length,
        n_memory=n_memory,
        rank=rank,
        alpha=2.0 * rank,
        top_k=field(config, "generation_top_k", int, default=1),
        stage=STAGES.get(str(config.get("training_stage")), "compress"),
        one_memory_token=not field(config, "different_mem_tokens", bool, default=False),
        marks=("AE", "ENC", "SEP", "KBTC") if kbtc else ("AE", "ENC", "SEP"),
        roles=ROLES,
    )


CLARA: Final = PublishedLayout("CLaRa", "CLaRa", PUBLISHED, settings)
