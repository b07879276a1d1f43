"""One training step of each stage, against a plain loop: tokens per second and peak memory.

    python benchmarks/stages.py
    python benchmarks/stages.py --bundled
    python benchmarks/stages.py --bundled --latent-layer 10

The batch is passages of 60 to 180 words with invented questions, eight on each in the compress
stage, or bundled passages, which are all about as long, with the questions there are on them.

All take the same batch, forward and backward, on the same base with the same adapters and memory
tokens that are learned rows, as those of the published code are. With `--latent-layer` they carry
tokens of the text, which are chosen by states after so many layers, where latents enter the
generator; compressor and reasoner end there for us, and the plain loops take the states of that
layer from all that they compute, and read each document twice, once for what is carried.
`openclara` has its layers packed and compiled, as the recipes do, and is timed after the compiler
is done; `uncompiled` is the same without. The plain loop composes base and adapter as peft does,
keeps all hidden states and computes the logits of the whole vocabulary at every position, of
documents as of prompts; `padded` besides pads documents and questions to the model's document
length, as the published code does (a question there to 1,024 and more; not here). Tokens are those
of the batch without padding. Times are taken in turn in one process, memory in a process of its own
for each; prints JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from machine import machine, spread
from texts import passages_of

from openclara.config import CompressStage, InstructStage, JointStage
from openclara.corpus import passages, questions
from openclara.data.records import framed
from openclara.data.tokenizer import SLOT, TextTokenizer
from openclara.model.adapters import AdapterRoles
from openclara.model.base import choose_device, choose_dtype, find_base, load_lm, load_tokenizer
from openclara.model.checkpoint import load_checkpoint, memory_table
from openclara.model.clara import ClaraModel, Encoded
from openclara.model.compiled import compile_layers
from openclara.model.memory import MemoryTable
from openclara.model.zoo import find_checkpoint
from openclara.training.examples import Example
from openclara.training.loop import trained_parameters
from openclara.training.stages import Collator, StageModule

if TYPE_CHECKING:
    from openclara.data.batches import PromptBatch, TextBatch
    from openclara.model.adapters import Role
    from openclara.training.batches import StageBatch

STAGES: dict[str, CompressStage | InstructStage | JointStage] = {
    "compress": CompressStage(kind="compress"),
    "instruct": InstructStage(kind="instruct", k=5),
    "joint": JointStage(kind="joint", k=5, n_candidates=10),
}
SIDES = ("openclara", "uncompiled", "plain", "padded")
DOC_MAX_LENGTH = 256
N_MEMORY = 16


class PlainModel(ClaraModel):
    """The same sums, with everything computed and kept."""

    def encode(self, batch: TextBatch, role: Any) -> Encoded:
        """Latents from the last of all hidden states; logits are computed and dropped."""
        if self.memory.anchored:
            # Where nothing learns texts would be read once, which is no plain loop.
            with torch.enable_grad():
                return super().encode(batch, role)
        embedded_RTD = self.memory.embed(batch.ids_RT, self.vocabulary)
        with self.roles.use(role) as lm:
            out = lm(inputs_embeds=embedded_RTD, use_cache=False, output_hidden_states=True)
        states_RTD = out.hidden_states[-1]
        positions_RM = batch.memory_positions_RM
        index_RMD = positions_RM.unsqueeze(-1).expand(-1, -1, states_RTD.shape[2])
        latents_RMD = states_RTD.gather(1, index_RMD)
        mask_RT = torch.arange(states_RTD.shape[1]) < batch.text_lengths_R.unsqueeze(1)
        summed_RD = (states_RTD.float() * mask_RT.unsqueeze(-1)).sum(1)
        return Encoded(
            latents_RMD,
            summed_RD / batch.text_lengths_R.unsqueeze(1),
            latents_RMD.float().mean(1),
            torch.ones(positions_RM.shape),
        )

    def _through(
        self,
        lm: Any,
        embedded_BTD: torch.Tensor,
        lengths_B: torch.Tensor,
        *,
        n_layers: int | None = None,
        positions_BT: torch.Tensor | None = None,
        slot_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """States after some layers, from all hidden states."""
        placed = {}
        if positions_BT is not None:
            mask_BT = torch.ones_like(positions_BT)
            placed = {"position_ids": positions_BT, "attention_mask": mask_BT}
        out = lm(inputs_embeds=embedded_BTD, use_cache=False, output_hidden_states=True, **placed)
        states: torch.Tensor = out.hidden_states[n_layers]
        return states

    def answer_logits(
        self, batch: PromptBatch, latents_SD: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of every position in float32; those without a target are left to the loss."""
        embedded_BTD, steps_BT = self.embed(batch.ids_BT, latents_SD)
        placed: dict[str, Any] = {}
        if steps_BT is not None:
            placed = {"position_ids": steps_BT.cumsum(1) - 1}
            placed["attention_mask"] = torch.ones_like(steps_BT)
        with self.roles.use("generator") as lm:
            whole = copy.copy(lm)
            slot_BT = batch.ids_BT == SLOT
            inner, embedded_BTD = self.reading(lm, embedded_BTD, slot_BT)
            whole._modules = {**lm._modules, "model": inner}
            out = whole(
                inputs_embeds=embedded_BTD, use_cache=False, output_hidden_states=True, **placed
            )
        labels_BT = batch.ids_BT.masked_fill(~batch.target_mask_BT, -100)
        return out.logits[:, :-1].float().flatten(0, 1), labels_BT[:, 1:].flatten()


def built(stage: str, *, plain: bool, latent_layer: int) -> StageModule:
    """A stage, ready to train, on the default base."""
    device = choose_device("auto")
    source = find_base("smollm2-135m")
    lm = load_lm(source, device=device, dtype=choose_dtype(device))
    n_layers = latent_layer or None
    depths: dict[Role, int | None] = {"compressor": n_layers, "reasoner": n_layers}
    roles = AdapterRoles(lm, rank=16, alpha=32, depths=depths)
    if latent_layer:
        shipped = load_checkpoint(find_checkpoint("smollm2-135m"))
        memory = memory_table(shipped, lm.get_input_embeddings().weight)
    else:
        memory = MemoryTable(64, lm.config.hidden_size)
        memory.initialise(lm.get_input_embeddings().weight, seed=0)
    if plain:
        lm.set_attn_implementation("sdpa")
        for layer in roles._layers.values():
            layer.__dict__.pop("forward", None)  # peft's own again
    model = (PlainModel if plain else ClaraModel)(roles, memory, latent_layer=latent_layer)
    module = StageModule(model, STAGES[stage])
    trained_parameters(module)
    return module.train()


class Asked(NamedTuple):
    """Texts and the (question, answer) pairs about the first of them."""

    texts: list[str]
    turns: list[tuple[str, str]]


def invented(n_examples: int, n_documents: int) -> list[Asked]:
    """Passages of 60 to 180 words and invented questions on them."""
    lengths = [60, 90, 120, 150, 180]
    turns = [(f"Which of the names of part {t} was the first?", "Utzon") for t in range(8)]
    return [
        Asked(
            [
                passages_of(lengths[(at + i) % 5], at * 10 + i + 1)[-1].text
                for i in range(n_documents)
            ],
            turns,
        )
        for at in range(n_examples)
    ]


def bundled(n_examples: int, n_documents: int) -> list[Asked]:
    """The first bundled passages and the questions on one of them."""
    examples, read = [], passages()
    for at in range(n_examples):
        own = read[at * n_documents : (at + 1) * n_documents]
        on_first = [one for one in questions() if one.passages == (own[0].id,)]
        texts = [framed(passage.title, passage.text) for passage in own]
        examples.append(Asked(texts, [(one.question, one.answers[0]) for one in on_first]))
    return examples


def batch_of(stage: str, tokenizer: TextTokenizer, *, real: bool) -> StageBatch:
    """Records of a stage, of bundled passages if `real`."""
    n_documents = {"compress": 1, "instruct": 5, "joint": 10}[stage]
    n_examples = {"compress": 12 if real else 8, "instruct": 3, "joint": 2}[stage]
    examples = []
    for texts, turns in (bundled if real else invented)(n_examples, n_documents):
        ids = tokenizer.encode(texts + [text for turn in turns for text in turn])
        pairs = zip(ids[n_documents::2], ids[n_documents + 1 :: 2], strict=True)
        documents = tuple(text[:DOC_MAX_LENGTH] for text in ids[:n_documents])
        examples.append(Example(documents, (0,), tuple(pairs), True, held_out=False))
    collator = Collator(STAGES[stage], tokenizer)
    return collator.batch(examples, n_memory=N_MEMORY, rng=random.Random(0))


def padded(batch: StageBatch) -> StageBatch:
    """The same with documents and questions as long as the longest document may be."""

    def longer(texts: TextBatch | None) -> TextBatch | None:
        if texts is None:
            return None
        short = DOC_MAX_LENGTH + 3 + N_MEMORY - texts.ids_RT.shape[1]
        return replace(texts, ids_RT=torch.nn.functional.pad(texts.ids_RT, (0, max(0, short))))

    return replace(batch, documents=longer(batch.documents), questions=longer(batch.questions))


def step(module: StageModule, batch: StageBatch, side: str) -> float:
    """Seconds of one forward and backward pass."""
    roles = cast("AdapterRoles", module.model.roles)
    module.model.packed = compile_layers(roles) if side == "openclara" else None
    if side == "padded":
        batch = padded(batch)
    started = time.perf_counter()
    device = module.model.memory.weight.device
    with torch.autocast(
        device.type, torch.bfloat16, enabled=module.model.lm.dtype != torch.float32
    ):
        loss = module(batch.to(device)).total
    loss.backward()
    module.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def megabytes(stage: str, side: str, *, bundled: bool, latent_layer: int) -> float:
    """Peak memory of a process that loads the base and takes one step."""
    command = [sys.executable, __file__, "--memory-of", stage, side]
    command += ["--latent-layer", str(latent_layer)]
    command += ["--bundled"] if bundled else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Time the sides in turn, then measure the memory of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--bundled", action="store_true", help="bundled passages and questions")
    parser.add_argument("--latent-layer", type=int, default=0, metavar="N")
    parser.add_argument("--times-only", action="store_true", help="measure no memory")
    parser.add_argument("--memory-of", nargs=2, metavar=("STAGE", "SIDE"))
    options = parser.parse_args()
    tokenizer = TextTokenizer(load_tokenizer(find_base("smollm2-135m")))
    if options.memory_of:
        stage, side = options.memory_of
        batch = batch_of(stage, tokenizer, real=options.bundled)
        module = built(stage, plain=side in SIDES[2:], latent_layer=options.latent_layer)
        step(module, batch, side)
        # Not ru_maxrss: a child begins with its parent's.
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        return
    result: dict[str, Any] = {"machine": machine(), "n_memory": N_MEMORY, "stages": {}}
    for stage in options.stages:
        layer = options.latent_layer
        modules = [built(stage, plain=plain, latent_layer=layer) for plain in (False, True)]
        batch = batch_of(stage, tokenizer, real=options.bundled)
        n_tokens = batch.n_tokens
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(options.rounds + 1):
            for side in SIDES:
                took = step(modules[side in SIDES[2:]], batch, side)
                if number:
                    seconds[side].append(took)
        ours = seconds["openclara"]
        result["stages"][stage] = {
            "tokens": n_tokens,
            "tokens_per_s": {s: spread([n_tokens / one for one in seconds[s]]) for s in SIDES},
            "ratio": {
                s: spread([b / a for a, b in zip(ours, seconds[s], strict=True)]) for s in SIDES[1:]
            },
        }
        if not options.times_only:
            result["stages"][stage]["peak_mb"] = {
                side: round(megabytes(stage, side, bundled=options.bundled, latent_layer=layer))
                for side in SIDES
            }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
