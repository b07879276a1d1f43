"""Search time and recall while one index grows, with the coarse stage against exact search.

    python benchmarks/scale.py LATENTS.safetensors --folder DIR --out RESULTS.json

LATENTS is what `real_latents.py` made. The first documents of the index are these real ones; later
ones are mixtures of three of them, around the mean of each memory token, so that they keep mean
and covariance of the real latents. One index grows by `index.add` through all sizes; at each,
real questions are asked. A run that was interrupted goes on where it was; sizes already in the
results are passed over.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, get_args

import torch
from machine import machine
from safetensors.torch import load_file
from torch.nn.functional import normalize

from openclara import Document, LatentIndex, LatentSpec
from openclara.evaluation.metrics import interval
from openclara.index import adding
from openclara.index.coarse.settings import Coarse
from openclara.index.comparing import queries
from openclara.index.layout import Quantization
from openclara.types import Chunk, CompressedDocument, Score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from openclara.types import Hit

BLOCK = 2048
PARTS = 3
K = 20


def main() -> None:
    """Let the index grow and measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("latents", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where the index is kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--candidates", type=int, nargs="*", default=[512, 1024, 2048])
    parser.add_argument("--n-memory", type=int, default=16)
    parser.add_argument("--quantization", default="int8", choices=get_args(Quantization))
    parser.add_argument("--score", default="late", choices=get_args(Score))
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--build-threads", type=int, default=2)
    parser.add_argument("--exact-rounds", type=int, default=5)
    options = parser.parse_args()
    tensors = load_file(options.latents)
    real_NMD = tensors["documents"][:, : options.n_memory].float()
    questions_QPD = tensors["questions"][: options.questions]
    if options.score == "flat":
        questions_QPD = questions_QPD[:, : options.n_memory]
    spec = LatentSpec(
        "made-up", "made-up", options.n_memory, real_NMD.shape[2], 256, score=options.score
    )
    # Documents here are a few words and one chunk: larger groups than real ones, or the
    # transactions would take longer than all else.
    adding.GROUP_DOCUMENTS, adding.GROUP_BYTES, adding.GROUP_S = 4096, 256 * 2**20, 60.0
    results: dict[str, Any] = {"machine": machine(), "spec": str(spec), "rows": []}
    if options.out.exists():
        results = json.loads(options.out.read_text(encoding="utf-8"))
    results["quantization"], results["real_documents"] = options.quantization, len(real_NMD)
    results["spread"] = {
        "real": spread(real_NMD, questions_QPD, spec),
        "mixtures": spread(mixtures(real_NMD, len(real_NMD)), questions_QPD, spec),
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    done = {row["documents"] for row in results["rows"]}
    for size in options.sizes:
        if size in done:
            continue
        row = grown(options, spec, real_NMD, size)
        row |= asked(options, spec, questions_QPD)
        results["rows"].append(row)
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(row), flush=True)


def grown(
    options: argparse.Namespace, spec: LatentSpec, real_NMD: Tensor, size: int
) -> dict[str, Any]:
    """Add documents up to a size."""
    torch.set_num_threads(options.build_threads)
    with LatentIndex.open(
        options.folder, spec, quantization=options.quantization, coarse=Coarse(from_chunks=None)
    ) as index:
        before, started = len(index), time.perf_counter()
        index.add(made(real_NMD, before, size))
        add_s = time.perf_counter() - started
    with LatentIndex.open(options.folder, coarse=Coarse(from_chunks=0)) as index:
        started = time.perf_counter()
        index.delete(["no such document"])  # a write that only brings the coarse stage up
        build_s = time.perf_counter() - started
        about = index.info()
    return {
        "documents": size,
        "added": size - before,
        "add_s": add_s,
        "coarse_build_s": build_s,
        "latent_bytes": about.latent_bytes,
        "coarse_bytes": about.coarse_bytes,
        "coarse_segments": about.coarse_segments,
        "memory_after_build": memory(),
    }


def asked(options: argparse.Namespace, spec: LatentSpec, questions_QPD: Tensor) -> dict[str, Any]:
    """Times of single questions, and the part of the exact hits that the coarse stage keeps."""
    # One thread: what a machine does for others then hardly changes the processor time.
    torch.set_num_threads(1)
    texts = ["?"] * len(questions_QPD)
    row: dict[str, Any] = {"coarse": {}}
    with LatentIndex.open(options.folder, coarse=Coarse(from_chunks=None)) as index:
        wanted = index.search(texts, questions_QPD, k=K, mode="latent", with_latents=False)
        row["exact_ms"] = timed(index, questions_QPD[: options.exact_rounds])
    for candidates in options.candidates:
        coarse = Coarse(from_chunks=0, candidates=candidates)
        with LatentIndex.open(options.folder, coarse=coarse) as index:
            index.search(texts[:3], questions_QPD[-3:], k=K, mode="latent", with_latents=False)
            found = [
                index.search(["?"], one[None], k=K, mode="latent", with_latents=False)[0]
                for one in questions_QPD
            ]
            times = timed(index, questions_QPD)
        recall = interval([*map(shared, wanted, found)])
        row["coarse"][str(candidates)] = {
            "recall_at_20": recall.mean,
            "recall_interval": [recall.low, recall.high],
            "ms": times,
            "faster": row["exact_ms"]["p50"] / times["p50"],
            "less_cpu": row["exact_ms"]["cpu_p50"] / times["cpu_p50"],
        }
    row["memory_after_search"] = memory()
    return row


def made(real_NMD: Tensor, first: int, end: int) -> Iterator[CompressedDocument]:
    """Documents number `first` to `end`, always the same ones."""
    mean_MD = real_NMD.mean(0)
    centred_NMD = real_NMD - mean_MD
    for block in range(first // BLOCK * BLOCK, end, BLOCK):
        chooser = torch.Generator().manual_seed(block)
        parts_BP = torch.randint(len(real_NMD), (BLOCK, PARTS), generator=chooser)
        weights_BP = normalize(torch.rand(BLOCK, PARTS, generator=chooser) ** 2 + 1e-3, dim=1)
        mixed = torch.zeros(BLOCK, *real_NMD.shape[1:])
        for part in range(PARTS):
            mixed += weights_BP[:, part, None, None] * centred_NMD[parts_BP[:, part]]
        for number in range(max(first, block), min(end, block + BLOCK)):
            latents_MD = (
                real_NMD[number] if number < len(real_NMD) else mean_MD + mixed[number - block]
            )
            document = Document(str(number), f"number {number}")
            yield CompressedDocument(document, (Chunk(0, 8, 2),), latents_MD[None])


def mixtures(real_NMD: Tensor, n: int) -> Tensor:
    """The first n latents that are not real, (n, M, D)."""
    made_up = made(real_NMD, len(real_NMD), len(real_NMD) + n)
    return torch.cat([document.latents for document in made_up])


def spread(latents_NMD: Tensor, questions_QPD: Tensor, spec: LatentSpec) -> dict[str, float]:
    """How far the best scores lie from the mean, in standard deviations: the median question.

    What is near the last hit that counts decides how hard it is to find the same hits.
    """
    asked = queries(spec.score, questions_QPD, n_memory=spec.n_memory)
    blocks = [latents_NMD[start : start + BLOCK] for start in range(0, len(latents_NMD), BLOCK)]
    scores_QN = torch.cat([asked.scores(block, asked.norms(block)) for block in blocks], dim=1)
    sorted_QN = scores_QN.sort(dim=1, descending=True)[0]
    standard_QN = (sorted_QN - scores_QN.mean(1, keepdim=True)) / scores_QN.std(1, keepdim=True)
    return {f"hit {rank}": standard_QN[:, rank - 1].median().item() for rank in (1, 20, 40, 200)}


def timed(index: LatentIndex, questions_QPD: Tensor) -> dict[str, float]:
    """Milliseconds of one question at a time, by the clock and of the processor."""
    times, spent = [], []
    for one in questions_QPD:
        started, worked = time.perf_counter(), time.process_time()
        index.search(["?"], one[None], k=K, mode="latent")
        times.append((time.perf_counter() - started) * 1000)
        spent.append((time.process_time() - worked) * 1000)
    return {
        "p50": median(times),
        "p95": quantiles(times, n=20)[-1],
        "cpu_p50": median(spent),
        "cpu_p95": quantiles(spent, n=20)[-1],
        "n": len(times),
    }


def shared(wanted: list[Hit], found: list[Hit]) -> float:
    """Part of the wanted hits that were found."""
    return len({h.document.id for h in wanted} & {h.document.id for h in found}) / len(wanted)


def memory() -> dict[str, int]:
    """Bytes of this process: its own, its mapped files in memory, and the most there ever was."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    names = {"own": "RssAnon", "files": "RssFile", "peak": "VmHWM"}
    return {name: int(sizes[key]) * 1024 for name, key in names.items()}


if __name__ == "__main__":
    main()
