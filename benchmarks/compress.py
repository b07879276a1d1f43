"""Documents compressed per second, against a plain loop that does what the published code does.

    python benchmarks/compress.py

The plain loop pads every text to the full document length, keeps the adapters unmerged (through
peft), returns all hidden states and computes full-vocabulary logits, all in bf16, on the same base
with the same number of memory tokens. Both are timed in turn in one process; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import torch
from machine import machine, spread
from texts import passages_of

from openclara import Clara, Document
from openclara.data.batches import text_batch
from openclara.model.base import choose_device, find_base, load_lm
from openclara.model.checkpoint import load_checkpoint, memory_table
from openclara.model.zoo import find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN_BATCH = 16
"""Documents in one forward pass of the plain loop."""


class PlainLoop:
    """The published way of compressing, on our base and adapters."""

    def __init__(self, name: str, n_memory: int) -> None:
        import peft

        checkpoint = load_checkpoint(find_checkpoint(name))
        card = checkpoint.card
        device = choose_device("auto")
        self.lm = load_lm(find_base(card.base), device=device, dtype=torch.bfloat16)
        self.lm.set_attn_implementation("sdpa")
        config = peft.LoraConfig(
            r=card.rank, lora_alpha=int(card.alpha), target_modules="all-linear"
        )
        peft.inject_adapter_in_model(config, self.lm, adapter_name="compressor")
        state = {f"{n}": t.to(torch.bfloat16) for n, t in checkpoint.roles["compressor"].items()}
        peft.set_peft_model_state_dict(self.lm, state, adapter_name="compressor")
        self.lm.eval()
        self.memory = memory_table(checkpoint, self.lm.get_input_embeddings().weight)
        self.n_memory, self.length, self.device = n_memory, card.doc_max_length, device

    @torch.inference_mode()
    def compress(self, clara: Clara, documents: list[Document]) -> torch.Tensor:
        """(N, M, D) latents."""
        made = []
        full = self.length + 3 + self.n_memory
        for start in range(0, len(documents), PLAIN_BATCH):
            texts = [d.text for d in documents[start : start + PLAIN_BATCH]]
            ids = [own[: self.length] for own in clara.tokenizer.encode(texts)]
            batch = text_batch(
                ids, n_memory=self.n_memory, bos=clara.tokenizer.bos, eos=clara.tokenizer.eos
            )
            short = full - batch.ids_RT.shape[1]
            ids_RT = torch.nn.functional.pad(batch.ids_RT, (0, short))
            lengths_R = batch.text_lengths_R + self.n_memory
            mask_RT = (torch.arange(full) < lengths_R.unsqueeze(1)).long()
            # Rolled to the right end: the published code pads on the left.
            shifts = [full - int(length) for length in lengths_R]
            ids_RT = torch.stack([row.roll(s) for row, s in zip(ids_RT, shifts, strict=True)])
            mask_RT = torch.stack([row.roll(s) for row, s in zip(mask_RT, shifts, strict=True)])
            embedded = self.memory.embed(ids_RT.to(self.device), self.lm.get_input_embeddings())
            out = self.lm(
                inputs_embeds=embedded,
                attention_mask=mask_RT.to(self.device),
                output_hidden_states=True,
                use_cache=False,
            )
            made.append(out.hidden_states[-1][:, -self.n_memory :].cpu())
        return torch.cat(made)


def ours(clara: Clara, documents: list[Document]) -> torch.Tensor:
    """The library's own way, chunking included."""
    return torch.cat([compressed.latents for compressed in clara.compress(documents)])


def measure(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Time both on 180- and 60-word passages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n-memory", type=int, default=16)
    parser.add_argument("--documents", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    clara = Clara.load(options.model, n_memory=options.n_memory)
    plain = PlainLoop(options.model, clara.latent_spec.n_memory)
    result: dict[str, Any] = {"machine": machine(), "n_memory": plain.n_memory, "passages": {}}
    for n_words in (180, 60):
        documents = passages_of(n_words, options.documents)
        ours(clara, documents[:16])
        plain.compress(clara, documents[:16])
        rates: dict[str, list[float]] = {"plain_loop": [], "openclara": []}
        ratios = []
        for _ in range(options.rounds):
            plain_s = measure(lambda documents=documents: plain.compress(clara, documents))  # type: ignore[misc]
            ours_s = measure(lambda documents=documents: ours(clara, documents))  # type: ignore[misc]
            rates["plain_loop"].append(len(documents) / plain_s)
            rates["openclara"].append(len(documents) / ours_s)
            ratios.append(plain_s / ours_s)
        result["passages"][f"{n_words} words"] = {
            "documents_per_s": {name: spread(values) for name, values in rates.items()},
            "ratio": spread(ratios),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
