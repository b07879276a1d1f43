"""Tiny checkpoints in the published layout, written by hand as the published code writes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from tiny import DOC_MAX_LENGTH, N_MEMORY, RANK, make_tokenizer, plain_lm, random_roles
from transformers import LlamaForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

ADAPTERS = {
    "compressor": "encoder_adapter",
    "reasoner": "query_reasoner_adapter",
    "generator": "decoder_adapter",
}
MARKS = ("<AE>", "<ENC>", "<SEP>")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

CONFIG = {
    "_attn_implementation_autoset": True,
    "ae_mode": "token",
    "attn_implementation": None,
    "auto_map": {"AutoConfig": "modeling_clara.CLaRaConfig", "AutoModel": "modeling_clara.CLaRa"},
    "compr_base_model_name": "mistralai/Mistral-7B-Instruct-v0.2",
    "compr_model_name": None,
    "compr_rate": DOC_MAX_LENGTH // N_MEMORY,
    "different_mem_tokens": True,
    "doc_max_length": DOC_MAX_LENGTH,
    "generation_top_k": 2,
    "kbtc_training": False,
    "lora": True,
    "lora_r": RANK,
    "model_type": "CLaRa",
    "optimize_mem_tokens": True,
    "pad_token_id": 2,
    "sep": True,
    "training_form": "both_separately",
    "training_stage": "stage2",
}


def untied_base(folder: Path, tied: Path) -> Path:
    """A base in bf16 whose LM head is a matrix of its own, as Mistral's is."""
    lm = LlamaForCausalLM.from_pretrained(tied, dtype=torch.float32)
    config = lm.config
    config.tie_word_embeddings = False
    with torch.random.fork_rng():
        torch.manual_seed(5)
        lm = LlamaForCausalLM(config)
    lm.to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def own_rows(n_rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(n_rows, width, generator=torch.Generator().manual_seed(seed)).bfloat16()


def make_published(
    folder: Path,
    base: Path,
    *,
    roles=("generator", "compressor", "reasoner"),
    copies=(),
    first_last: bool = True,
    **changes,
) -> Path:
    """Write a checkpoint.

    Args:
        folder: Where to.
        base: Folder of the base.
        roles: Adapters it holds.
        copies: Roles whose adapter holds embedding and head besides, as some stages write them.
        first_last: Whether embedding and head have a file of their own.
        changes: Fields of the config.
    """
    config = {**CONFIG, "decoder_model_name": str(base), **changes}
    lm = plain_lm(base, dtype=torch.bfloat16)
    n_memory = config["doc_max_length"] // config["compr_rate"]
    n_own = (n_memory if config["different_mem_tokens"] else 1) + len(MARKS)
    n_own += config["kbtc_training"]
    embedding = lm.get_input_embeddings().weight
    n_text, width = len(make_tokenizer()), embedding.shape[1]
    rows = {EMBEDDING: torch.cat([embedding[:n_text], own_rows(n_own, width, seed=6)])}
    both = dict(rows)
    if lm.config.tie_word_embeddings:
        both[HEAD] = rows[EMBEDDING]
    else:
        # Small, as the rows that the published code adds: they are never the best choice.
        head = torch.cat([lm.lm_head.weight[:n_text], 0.01 * own_rows(n_own, width, seed=7)])
        rows[HEAD] = both[HEAD] = head
    states = random_roles(lm, roles)
    adapters = {
        ADAPTERS[role]: {name: tensor.bfloat16() for name, tensor in states[role].items()}
        for role in roles
    }
    for role in copies:
        adapters[ADAPTERS[role]] |= both
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(adapters, folder / "adapters.pth")
    if first_last:
        torch.save(rows, folder / "decoder_first_last_layers.pth")
    return folder


def merged_lm(base: Path, folder: Path, role: str) -> LlamaForCausalLM:
    """The resized base in float32 under one role, put together without our code."""
    rows = torch.load(folder / "decoder_first_last_layers.pth", weights_only=True)
    adapters = torch.load(folder / "adapters.pth", weights_only=True)
    state = {name: t.float() for name, t in adapters[ADAPTERS[role]].items()}
    lm = plain_lm(base, {n: t for n, t in state.items() if ".lora_" in n})
    lm.resize_token_embeddings(rows[EMBEDDING].shape[0], mean_resizing=False)
    lm.load_state_dict({name: tensor.float() for name, tensor in rows.items()}, strict=False)
    return lm.eval()


def special_ids(n_memory: int = N_MEMORY) -> dict[str, int]:
    """Ids of the own tokens: behind the base's, memory tokens first."""
    first = len(make_tokenizer())
    ids = {f"<MEM{i}>": first + i for i in range(n_memory)}
    return ids | {mark: first + n_memory + i for i, mark in enumerate(MARKS)}
