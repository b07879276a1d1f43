"""A base and a checkpoint small enough for every test: random, seeded, complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from openclara.model.adapters import ROLES, AdapterRoles
from openclara.model.base import find_base, load_lm
from openclara.model.checkpoint import Card, Checkpoint, save_checkpoint
from openclara.model.clara import ClaraModel
from openclara.model.memory import MemoryTable
from openclara.model.merged import MergedRoles

if TYPE_CHECKING:
    from pathlib import Path

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WIDTH, N_MEMORY, DOC_MAX_LENGTH, RANK, ALPHA = 32, 8, 32, 4, 8.0

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = (
    "Answer from the background, as briefly as possible. Background: Question: system user "
    "assistant Say the background again in other words. The opera house in Sydney was designed by "
    "the architect Utzon. Who designed the opera house? Where is the river, and when did the "
    "train leave the station? It was in the year one thousand nine hundred and seventy three."
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges and SmolLM2's control tokens (bos is `<|im_start|>`)."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator([CORPUS], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_base(folder: Path) -> Path:
    """Write a random causal LM and its tokenizer, loadable as any base is."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        # Large enough that every position attends to something and answers vary.
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = LlamaForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_roles(lm: torch.nn.Module, roles=ROLES, *, seed: int = 1) -> dict:
    """LoRA tensors of each role, A and B both random, named as in a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    linear = {
        name: module
        for name, module in lm.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    return {
        role: {
            f"{name}.lora_{side}.weight": 0.1 * torch.randn(shape, generator=generator)
            for name, module in linear.items()
            for side, shape in (
                ("A", (RANK, module.in_features)),
                ("B", (module.out_features, RANK)),
            )
        }
        for role in roles
    }


def anchored_memory(
    vocabulary_VD: torch.Tensor, *, n_memory: int = N_MEMORY, line_ends: tuple = (), seed: int = 0
) -> MemoryTable:
    """A table whose memory tokens carry tokens of the text, by weights and salience at random."""
    generator = torch.Generator().manual_seed(seed)
    n_vocabulary, width = vocabulary_VD.shape
    table = MemoryTable(n_memory, width, n_vocabulary=n_vocabulary, doc_max_length=DOC_MAX_LENGTH)
    table.initialise(vocabulary_VD, seed=2)
    table.count(torch.randint(0, 50, (n_vocabulary,), generator=generator))
    salience = table.salience
    for name, tensor in salience.state_dict().items():
        if tensor.is_floating_point():
            wide = 1.0 if name == "network.read.weight" else 0.3
            tensor.copy_(wide * torch.randn(tensor.shape, generator=generator))
    salience.spread_D.abs_().add_(0.5)
    # Every third token goes on with the word before.
    letters = ["a" if token % 3 == 1 else " a" for token in range(n_vocabulary)]
    salience.spell(["\n" if token in line_ends else word for token, word in enumerate(letters)])
    return table


def make_checkpoint(folder: Path, base: Path, *, with_reasoner: bool = True) -> Path:
    """Write a checkpoint on `base` that `Clara.load` reads; its answers mean nothing."""
    lm = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    roles = ROLES if with_reasoner else tuple(role for role in ROLES if role != "reasoner")
    memory = MemoryTable(N_MEMORY, WIDTH)
    memory.initialise(lm.get_input_embeddings().weight, seed=2)
    card = Card(
        base=str(base),
        base_sha256=find_base(str(base)).sha256,
        n_memory=N_MEMORY,
        default_n_memory=4,
        doc_max_length=DOC_MAX_LENGTH,
        rank=RANK,
        alpha=ALPHA,
        latent_gain=1.0,
        stage="joint" if with_reasoner else "compress",
    )
    save_checkpoint(folder, Checkpoint(card, random_roles(lm, roles), memory.weight.detach()))
    return folder


def plain_lm(base: Path, state: dict | None = None, *, dtype=torch.float32) -> LlamaForCausalLM:
    """The base as transformers alone loads it, with LoRA tensors added to its weights by hand."""
    lm = LlamaForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="eager").eval()
    for name, down in (state or {}).items():
        if name.endswith(".lora_A.weight"):
            up = state[name.replace("lora_A", "lora_B")]
            weight = lm.get_submodule(name.removesuffix(".lora_A.weight")).weight
            weight.data += ALPHA / RANK * (up.to(dtype) @ down.to(dtype))
    return lm.requires_grad_(False)


def tiny_memory(base: Path) -> MemoryTable:
    """A memory table on the base, as a new training run starts with."""
    memory = MemoryTable(N_MEMORY, WIDTH)
    memory.initialise(plain_lm(base).get_input_embeddings().weight, seed=2)
    return memory


def tiny_clara_model(
    base: Path, *, merged: bool = True, dropout: float = 0.0, latent_layer: int = 0
) -> ClaraModel:
    """Base, random roles and memory table as the project composes them."""
    lm = load_lm(find_base(str(base)), device=torch.device("cpu"), dtype=torch.float32)
    states = random_roles(lm)
    roles: MergedRoles | AdapterRoles
    if merged:
        roles = MergedRoles(lm, states=states, scale=ALPHA / RANK)
    else:
        roles = AdapterRoles(lm, rank=RANK, alpha=ALPHA, dropout=dropout)
        for role, state in states.items():
            roles.load(role, state)
    return ClaraModel(roles, tiny_memory(base), latent_layer=latent_layer).eval()
