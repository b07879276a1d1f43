"""The figures of the README, printed from the JSON that the other files here wrote.

make bench && python benchmarks/figures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WARM_S = 20
"""Seconds after which a service has used all the work space it will."""

SIDES = ("openclara", "plain", "padded")


def main() -> None:
    """Print Markdown."""
    steps = [*stages("stages"), "", *stages("stages_bundled")]
    lines = [*speed(), "", *search(), "", *steps, "", *choices(), "", *load(), "", *soak()]
    print("\n".join(lines))


def read(name: str) -> Any:
    """One benchmark's output."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def measured_on(machine: Any) -> str:
    """The machine, and what the figures of a table are."""
    return (
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, bf16; "
        "medians, with least and largest in brackets; each ratio from one run, sides in turn."
    )


def speed() -> list[str]:
    """Compression and first token, each against what it is measured against."""
    compress = read("compress")
    lines = [
        measured_on(compress["machine"]),
        "",
        "| | openclara | against | ratio |",
        "|---|---|---|---|",
    ]
    for passages, row in compress["passages"].items():
        rates = row["documents_per_s"]
        lines.append(
            f"| compress passages of {passages}, {compress['n_memory']} latents, documents/s "
            f"| {cell(rates['openclara'], 1)} | plain loop {cell(rates['plain_loop'], 1)} "
            f"| {cell(row['ratio'], 1)} |"
        )
    lines += first_token(read("first_token"), "")
    lines += first_token(read("first_token_without_amx"), "; AMX switched off")
    return lines


def first_token(first: Any, how: str) -> list[str]:
    """From latents and from full text, ours and transformers'."""
    times, tokens = first["first_token_ms"], first["prompt_tokens"]
    return [
        f"| first token from an index of {first['documents']:,}, k = {first['k']}, "
        f"{first['n_memory']} latents, ms ({tokens['latents']} prompt positions{how}) "
        f"| {cell(times['latents'], 0)} "
        f"| {name}, {tokens['text']:,} positions: {cell(times[key], 0)} "
        f"| {cell(first['ratio'][key], 1)} |"
        for key, name in {"text": "full text", "text_transformers": "transformers'"}.items()
    ]


def stages(name: str) -> list[str]:
    """One training step of each stage against a plain loop."""
    measured = read(name)
    texts = "bundled passages" if name == "stages_bundled" else "passages of 60 to 180 words"
    lines = [
        measured_on(measured["machine"]),
        "",
        f"| training step, {texts} | tokens/s | plain loop | ratio | padded to full length | ratio "
        "| peak MB of the three |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage, row in measured["stages"].items():
        ours, plain, padded = (cell(row["tokens_per_s"][side], 0) for side in SIDES)
        over_plain, over_padded = (cell(row["ratio"][side], 1) for side in SIDES[1:])
        peaks = ", ".join(f"{row['peak_mb'][side]:,}" for side in SIDES)
        lines.append(
            f"| {stage} | {ours} | {plain} | {over_plain} | {padded} | {over_padded} | {peaks} |"
        )
    return lines


def choices() -> list[str]:
    """What a training step is made of, against what it replaces."""
    training = read("training")
    lines = [
        measured_on(training["machine"]),
        "",
        "| forward and backward, ms | openclara | torch's own | ratio |",
        "|---|---|---|---|",
    ]
    names = {
        "attention": "attention of 8 texts of 256 tokens",
        "rowwise": "attention of 8 texts of 75 to 250 tokens, packed",
        "low_rank": "linear layer with LoRA",
    }
    for key, name in names.items():
        row = training[key]
        lines.append(
            f"| {name} | {cell(row['ours_ms'], 1)} | {cell(row['replaced_ms'], 1)} "
            f"| {cell(row['ratio'], 1)} |"
        )
    return lines


def search() -> list[str]:
    """Search time and size by documents and quantisation."""
    lines = [
        "| documents | latents as | bytes per document | latent search, ms | hybrid, ms |",
        "|---|---|---|---|---|",
    ]
    for row in read("search")["rows"]:
        times = row["search_ms"]
        lines.append(
            f"| {row['documents']:,} | {row['quantization']} | {row['bytes_per_document']:,.0f} "
            f"| {cell(times['latent'], 1)} | {cell(times['hybrid'], 1)} |"
        )
    return lines


def load() -> list[str]:
    """What a service answers over HTTP, one client against many."""
    result = read("load")
    lines = [
        "| clients | answers | answers/s | p50, ms | p95, ms | refused or failed |",
        "|---|---|---|---|---|---|",
    ]
    for side, n_clients in (("one", 1), ("many", result["clients"])):
        row = result["sides"][side]
        bad = sum(number for status, number in row["statuses"].items() if status != "200")
        lines.append(
            f"| {n_clients} | {row['answers']:,} | {cell(row['answers_per_s'], 1)} "
            f"| {row['p50_ms']:,.0f} | {row['p95_ms']:,.0f} | {bad:,} |"
        )
    memory = result["resident_mb"]
    lines += [
        "",
        f"{cell(result['ratio'], 1)} times as many answers from {result['clients']} clients as "
        f"from one; the process holds {memory[-1]:,.0f} MB after it.",
    ]
    return lines


def soak() -> list[str]:
    """What was lost, and what memory did, while a service was used and killed."""
    result = read("soak")
    counts = result["counts"]
    warm = [mb for at, mb in result["resident_mb"] if at >= WARM_S]
    return [
        f"{result['minutes']:g} minutes, {result['kills']} kills, {counts['202']:,} writes and "
        f"{counts['200']:,} other replies: of {result['acknowledged']} acknowledged documents "
        f"{len(result['lost'])} lost, of {result['deleted']} deleted ones "
        f"{len(result['came_back'])} came back; replies of 500 or more but 503: "
        f"{counts.get('error', 0)}; at most {max(warm):,.0f} MB resident.",
    ]


def cell(spread: dict[str, float], digits: int) -> str:
    """Median and range."""
    return (
        f"{spread['median']:,.{digits}f} [{spread['min']:,.{digits}f}, {spread['max']:,.{digits}f}]"
    )


if __name__ == "__main__":
    main()
