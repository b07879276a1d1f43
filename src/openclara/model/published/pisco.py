"""PISCO and the COCOM code it comes from (`model_type` "COCOM"): CLaRa's layout without a reasoner.

Prompts, memory tokens and files are those of the published CLaRa code, which grew out of this one.
Two things differ: one adapter may both compress and generate, and nothing says how many documents
are answered from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from openclara.data.wording import PUBLISHED
from openclara.errors import FormatError
from openclara.model.published import clara
from openclara.model.published.layout import CONFIG, PublishedLayout, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openclara.model.adapters import Role

APART: Final = "both_separately"
"""`training_form` of checkpoints whose compressor has an adapter of its own."""


def settings(config: Mapping[str, Any]) -> Settings:
    """What a config of this family says.

    Raises:
        FormatError: A field is wrong, or the compressor is a network of its own.
    """
    if config.get("compr_model_name") is not None:
        raise FormatError(
            f"{CONFIG} names {config['compr_model_name']!r} as a compressor of its own; only "
            "models that compress with their base can be read"
        )
    roles: dict[str, tuple[Role, ...]] = {
        "decoder_adapter": ("generator",),
        "encoder_adapter": ("compressor",),
    }
    if config.get("training_form") != APART:
        roles = {"decoder_adapter": ("generator", "compressor")}
    return replace(clara.settings({**config, "generation_top_k": 5}), stage="instruct", roles=roles)


PISCO: Final = PublishedLayout("PISCO", "COCOM", PUBLISHED, settings)
