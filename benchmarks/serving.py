"""How many questions a service answers: many clients at once against one at a time.

    python benchmarks/serving.py

Straight on the engine, without HTTP. `decoding` writes answers of a fixed length in batches of
several sizes; `answering` lets clients ask about the bundled corpus, each the next question as
soon as it has an answer. Every round takes all sizes in turn and what is compared is of one round,
so that a machine that slows down does not favour one side. Beside wall clock it gives the CPU time
of the process, which other processes disturb less. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from machine import machine, spread

from openclara import Clara, LatentIndex
from openclara.corpus import passages, questions
from openclara.model.continuous import DecodingBatch, Entry
from openclara.model.generator import Decoding
from openclara.server.asking import Finished, Question
from openclara.server.engine import ClaraEngine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openclara.model.generator import Prompt

CLIENTS = (1, 32)
ROWS = (1, 4, 16, 32)


def main() -> None:
    """Index the bundled corpus and ask about it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=24, help="of one client in a round")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer in `decoding`")
    options = parser.parse_args()
    clara = Clara.load(options.model)
    with (
        tempfile.TemporaryDirectory() as folder,
        LatentIndex.open(Path(folder) / "corpus.idx", clara.latent_spec) as index,
    ):
        index.add(clara.compress(passages()))
        result = {
            "machine": machine(),
            "model": options.model,
            "decoding": decoding(clara, index, options.rounds, options.tokens),
            "answering": asyncio.run(answering(clara, index, options.rounds, options.questions)),
        }
    print(json.dumps(result, indent=2))


def decoding(clara: Clara, index: LatentIndex, rounds: int, n_tokens: int) -> dict[str, Any]:
    """Tokens per second by the rows of a batch, prompts read beforehand."""
    asked = [one.question for one in questions()[: max(ROWS)]]
    hits = [answer.hits for answer in clara.ask(asked, index, k=5, decoding=Decoding(1))]
    prompts = [clara.prompt(text, own) for text, own in zip(asked, hits, strict=True)]
    rates: dict[int, list[tuple[float, float]]] = {n_rows: [] for n_rows in ROWS}
    for n_rows in ROWS * rounds:
        rates[n_rows].append(_rate(clara, prompts[:n_rows], n_tokens))
    return {
        "tokens": n_tokens,
        "rows": {
            str(n_rows): {
                "tokens_per_s": spread([wall for wall, _ in own]),
                "over_one_row": _over(own, rates[1]),
            }
            for n_rows, own in rates.items()
        },
    }


def _rate(clara: Clara, prompts: Sequence[Prompt], n_tokens: int) -> tuple[float, float]:
    """Tokens per second of wall clock and of CPU time."""
    batch = DecodingBatch(clara.model)
    whole = Decoding(max_new_tokens=n_tokens + 2)
    batch.join([Entry(prompt, whole, frozenset()) for prompt in prompts])
    batch.step()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(n_tokens - 1):
        batch.step()
    written = len(prompts) * (n_tokens - 1)
    return written / (time.perf_counter() - wall), written / (time.process_time() - cpu)


@dataclass
class Round:
    """What some clients were answered in one round."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    steps: int = 0
    tokens: int = 0
    latency_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)

    @property
    def rates(self) -> tuple[float, float]:
        """Answers per second of wall clock and of CPU time."""
        return len(self.latency_ms) / self.wall_s, len(self.latency_ms) / self.cpu_s


async def answering(
    clara: Clara, index: LatentIndex, rounds: int, n_questions: int
) -> dict[str, Any]:
    """Answers per second and their latency, by the number of clients."""
    engine = ClaraEngine(clara, timeout_s=600.0)
    texts = itertools.cycle([one.question for one in questions()])
    done: dict[int, list[Round]] = {clients: [] for clients in CLIENTS}
    await _round(engine, index, 4, itertools.islice(texts, 8))  # roles are merged on first use
    for clients in CLIENTS * rounds:
        # As many for each as keeps every client busy several times.
        asked = itertools.islice(texts, n_questions if clients == 1 else 4 * clients)
        done[clients].append(await _round(engine, index, clients, asked))
    await engine.close(drain_s=10.0)
    one = [own.rates for own in done[1]]
    return {str(clients): _summary(own, one) for clients, own in done.items()}


async def _round(
    engine: ClaraEngine, index: LatentIndex, clients: int, texts: Iterator[str]
) -> Round:
    made, before = Round(), engine.load
    wall, cpu = time.perf_counter(), time.process_time()

    async def client() -> None:
        for text in texts:
            started = time.perf_counter()
            async for event in engine.ask(Question(text, k=5), index):
                if isinstance(event, Finished):
                    made.first_token_ms.append(event.usage.first_token_ms)
            made.latency_ms.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(client() for _ in range(clients)))
    made.wall_s, made.cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    made.steps = engine.load.steps - before.steps
    made.tokens = engine.load.tokens - before.tokens
    return made


def _summary(rounds: Sequence[Round], one: Sequence[tuple[float, float]]) -> dict[str, Any]:
    latency = sorted(ms for own in rounds for ms in own.latency_ms)
    first = sorted(ms for own in rounds for ms in own.first_token_ms)
    tokens = sum(own.tokens for own in rounds)
    return {
        "answers": len(latency),
        "answers_per_s": spread([own.rates[0] for own in rounds]),
        "over_one_client": _over([own.rates for own in rounds], one),
        "latency_ms": {"p50": median(latency), "p95": latency[int(0.95 * len(latency))]},
        "first_token_ms": {"p50": median(first), "p95": first[int(0.95 * len(first))]},
        "tokens_per_answer": tokens / len(latency),
        "mean_batch": tokens / max(1, sum(own.steps for own in rounds)),
    }


def _over(
    rates: Sequence[tuple[float, float]], one: Sequence[tuple[float, float]]
) -> dict[str, dict[str, float]]:
    """How many times as fast as one at a time, round by round."""
    pairs = list(zip(rates, one, strict=True))
    return {
        "wall": spread([many[0] / single[0] for many, single in pairs]),
        "cpu": spread([many[1] / single[1] for many, single in pairs]),
    }


if __name__ == "__main__":
    main()
