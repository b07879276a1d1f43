"""A checkpoint of ours in the layout of the published code, which then loads it as its own.

Legend: V ordinary tokens of the base, O own tokens, D width.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from openclara.errors import ModelError
from openclara.model.base import DEFAULT_BASE, find_base, load_tokenizer
from openclara.model.published import CLARA, LAYOUTS
from openclara.model.published.clara import STAGES
from openclara.model.published.layout import ADAPTERS, CONFIG, EMBEDDING, FIRST_LAST, HEAD
from openclara.model.published.reading import ROW_OF, read_tensor
from openclara.model.published.record import WRITTEN_BY_US, record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from openclara.model.adapters import Role
    from openclara.model.base import BaseSource
    from openclara.model.checkpoint import Checkpoint
    from openclara.model.published.layout import PublishedLayout, Settings

NEW: Final[dict[str, Any]] = {
    "ae_mode": "token",
    "attn_implementation": None,
    "auto_map": {
        "AutoConfig": "modeling_clara.CLaRaConfig",
        "AutoModel": "modeling_clara.CLaRa",
    },
    "compr_every_n_layer": None,
    "compr_linear_type": "concat",
    "compr_mlp_hidden_dim": 8096,
    "compr_model_name": None,
    "compr_n_layers": 5,
    "compr_rms_norm": False,
    "compr_use_mlp": False,
    "device_map": None,
    "different_mem_tokens": True,
    "kbtc_training": False,
    "load_adapters": True,
    "load_pretrained_checkpoint": False,
    "lora": True,
    "lora_compressor": False,
    "max_new_tokens": 128,
    "model_type": CLARA.model_type,
    "optimize_mem_tokens": True,
    # In the file, or the published code drops the argument of the same name and the generator.
    "pure_inference": True,
    "quantization": "no",
    "sep": True,
    "stage2_retrieval_top_n": 1,
    "training_form": "both_separately",
}
"""Config of a model that was never published: what its training script sets, and the defaults."""

TOKENIZER_FILES: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "chat_template.jinja",
)  # fmt: skip


DEFAULT_THETA: Final = 10_000
"""What transformers 4 takes for the rotary base where a config does not say it its way."""


def write_published(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write a checkpoint in the published layout.

    Args:
        checkpoint: With learned memory tokens.
        folder: Made if it is not there.

    Returns:
        What the user should know of it, a sentence each.

    Raises:
        ModelError: The published code could not express this model, or its base is missing.
    """
    _check_expressible(checkpoint)
    card = checkpoint.card
    source = find_base(card.base)
    config = _config(checkpoint, source)
    settings = _layout(config).settings(config)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(_rows(checkpoint, source, settings), folder / FIRST_LAST)
    for adapter, roles in settings.roles.items():
        _check_shared(checkpoint, adapter, roles)
    adapters = {
        adapter: {name: t.contiguous() for name, t in checkpoint.roles[roles[0]].items()}
        for adapter, roles in settings.roles.items()
        if roles[0] in checkpoint.roles
    }
    torch.save(adapters, folder / ADAPTERS)
    for name in TOKENIZER_FILES:
        if (source.folder / name).is_file():
            shutil.copy(source.folder / name, folder / name)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return _notes(checkpoint, source)


def _check_expressible(checkpoint: Checkpoint) -> None:
    card = checkpoint.card
    if card.memory != "learned":
        raise ModelError(
            f"this model's memory tokens are {card.memory}, the published layout has learned ones "
            "alone; train one with memory = 'learned' to publish it there"
        )
    if card.score != "flat":
        raise ModelError(
            f"this model compares latents by a {card.score} score, the published code by the "
            "cosine of all of them flattened; train one with score = 'flat' to publish it there"
        )
    if card.latent_gain != 1.0:
        raise ModelError(
            f"this model multiplies latents by {card.latent_gain:g}, the published code cannot; "
            "train one with latent_gain = 1 to publish it there"
        )
    if card.alpha != 2 * card.rank:
        raise ModelError(
            f"this model has LoRA alpha {card.alpha:g} at rank {card.rank}, the published code "
            "fixes it at twice the rank; train one so to publish it there"
        )


def _check_shared(checkpoint: Checkpoint, adapter: str, roles: Sequence[Role]) -> None:
    """Roles that one adapter plays must not have been trained apart since."""
    states = [checkpoint.roles[role] for role in roles if role in checkpoint.roles]
    if not all(torch.equal(t, state[n]) for state in states[1:] for n, t in states[0].items()):
        raise ModelError(
            f"{' and '.join(roles)} share {adapter} where this model came from, but were trained "
            "apart since; that layout cannot hold it"
        )


def origin(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The published config that a checkpoint once came from."""
    for made in checkpoint.card.training:
        if isinstance(made.get("published"), dict):
            return dict(made["published"])
    return None


def _layout(config: Mapping[str, Any]) -> PublishedLayout:
    return next(one for one in LAYOUTS if one.model_type == config["model_type"])


def _config(checkpoint: Checkpoint, source: BaseSource) -> dict[str, Any]:
    card, before = checkpoint.card, origin(checkpoint)
    base = _base_name(source)
    named: dict[str, Any] = {"decoder_model_name": base, "compr_base_model_name": base}
    stage = {ours: theirs for theirs, ours in STAGES.items()}.get(card.stage, "stage1_2")
    if before is not None:
        then = _layout(before).settings(before)
        named |= {} if then.top_k == card.top_k else {"generation_top_k": card.top_k}
        named |= {} if then.stage == card.stage else {"training_stage": stage}
        return {**before, **named}
    # A rate that makes as many memory tokens; where none does, a text is cut a little earlier.
    rate, length = max(card.doc_max_length // card.n_memory, 1), card.doc_max_length
    if length // rate != card.n_memory:
        length = rate * card.n_memory
    return {
        **NEW,
        **named,
        "doc_max_length": length,
        "compr_rate": rate,
        "generation_top_k": card.top_k,
        "lora_r": card.rank,
        "lora_r_compressor": card.rank,
        "training_stage": stage,
        WRITTEN_BY_US: record(checkpoint),
    }


def _base_name(source: BaseSource) -> str:
    """How the published code finds the base: a hub id, or the folder's whole path."""
    if source.name == DEFAULT_BASE or Path(source.name).expanduser().is_dir():
        return str(source.folder.resolve())
    return source.name


def _rows(checkpoint: Checkpoint, source: BaseSource, settings: Settings) -> dict[str, Tensor]:
    """Embedding and LM head, extended by the own tokens."""
    # As the published code resizes: to the tokenizer's size, whatever padding the base has.
    n_text = len(load_tokenizer(source, as_written=True))
    embedding_VD = read_tensor(source, EMBEDDING)
    if embedding_VD is None:
        raise ModelError(
            f"the base {source.name} holds no {EMBEDDING!r}; the published layout needs a base of "
            "the Llama kind"
        )
    memory = checkpoint.memory[-settings.n_memory :][: settings.n_memory_rows]
    marks = checkpoint.memory[[ROW_OF[mark] for mark in settings.marks]]
    own_OD = torch.cat([memory, marks])
    rows = {EMBEDDING: _extended(embedding_VD[:n_text], own_OD)}
    head_VD = read_tensor(source, HEAD)
    if head_VD is not None and not _is_tied(source):
        head_OD = checkpoint.head
        if not head_OD.numel():
            # As the published code starts them; they never win against a trained row.
            head_OD = head_VD[:n_text].float().mean(0).expand(settings.n_own, -1)
        rows[HEAD] = _extended(head_VD[:n_text], head_OD)
    return rows


def _extended(rows_VD: Tensor, own_OD: Tensor) -> Tensor:
    return torch.cat([rows_VD.bfloat16(), own_OD.detach().bfloat16()])


def _base_config(source: BaseSource) -> Mapping[str, Any]:
    config: dict[str, Any] = json.loads((source.folder / CONFIG).read_text(encoding="utf-8"))
    return config


def _is_tied(source: BaseSource) -> bool:
    return bool(_base_config(source).get("tie_word_embeddings", False))


def _notes(checkpoint: Checkpoint, source: BaseSource) -> list[str]:
    notes = []
    if checkpoint.card.wording != CLARA.wording:
        notes.append(
            "the published code asks in its own words, which this model was not trained on; its "
            "answers there may be worse than here"
        )
    base = _base_config(source)
    theta = (base.get("rope_parameters") or {}).get("rope_theta", DEFAULT_THETA)
    if "rope_theta" not in base and theta != DEFAULT_THETA:
        notes.append(
            f"transformers 4, which the published code needs, reads no `rope_parameters`; write "
            f"`rope_theta` into {source.folder / CONFIG} as well"
        )
    return notes
