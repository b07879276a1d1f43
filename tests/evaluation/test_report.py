"""The report says what the numbers say, and nothing in the data becomes markup."""

from __future__ import annotations

import random

TASKS = {"NQ": 100, "HotpotQA": 100, "MuSiQue": 100, "2Wiki": 96}
SYSTEMS = (
    # name, reader, ranker, model, n_memory, shorten, F1, prompt tokens, stored bytes, ms
    ("closed book", "none", None, "smollm2-135m", None, None, 0.089, 36, 0, 210),
    ("full text, untuned", "text", "BM25", None, None, None, 0.149, 812, 3160, 1650),
    ("full text, tuned", "text", "BM25", "runs/baselines/text", None, None, 0.402, 812, 3160, 1580),
    ("first 16 tokens each", "text", "BM25", "runs/baselines/text", None, "cut", 0.171, 131, 3160, 400),
    ("best sentences, 16 tokens each", "text", "BM25", "runs/baselines/text", None, "sentences", 0.231, 129, 3160, 420),
    ("LLMLingua-2, 16 tokens each", "text", "BM25", "runs/baselines/text", None, "llmlingua", 0.188, 134, 3160, 610),
    ("PISCO-like, 16x", "latents", "BM25", "runs/baselines/pisco", 16, None, 0.124, 141, 94208, 420),
    ("latents, 16x", "latents", "BM25", "smollm2-135m", 16, None, 0.151, 141, 94208, 430),
    ("latents, 4x", "latents", "BM25", "smollm2-135m", 64, None, 0.228, 402, 376832, 840),
    ("reasoner and latents, 16x", "latents", "reasoner", "smollm2-135m", 16, None, 0.118, 138, 91392, 425),
)  # fmt: skip
RANKERS = (
    # name, kind, control, recall@1
    ("random", "random", True, 0.11),
    ("BM25", "bm25", False, 0.44),
    ("MiniLM", "dense", False, 0.52),
    ("reasoner", "latent", False, 0.15),
    ("hybrid", "hybrid", False, 0.47),
    ("gold", "gold", True, 0.62),
)
REFERENCE = "full text, tuned"


def between(mean, width=0.035):
    return [mean, max(0.0, mean - width), min(1.0, mean + width)]


def answer_row(rng, task, n, setting, system):
    name, _, _, _, _, _, f1, prompt, stored, ms = system
    harder = 0.75 if setting == "normal" else 1.0
    f1 = f1 * harder * rng.uniform(0.8, 1.2) if task != "average" else f1 * harder
    width = 0.07 if task != "average" else 0.035
    lower = [(metric, f1 * part) for metric, part in (("f1", 1.0), ("em", 0.6), ("cover", 0.85))]
    metrics = {metric: between(value, width) for metric, value in lower}
    metrics |= {f"published_{metric}": between(0.95 * value, width) for metric, value in lower}
    metrics["supported"] = between(0.0 if name == "closed book" else 0.66 * harder, width)
    full = {
        metric: 0.402 * harder * part for metric, part in (("f1", 1), ("em", 0.6), ("cover", 0.85))
    }
    over = {m: [metrics[m][0] - full[m] + d for d in (0, -0.031, 0.03)] for m in full}
    text = 0.0 if name == "closed book" else 812.0
    return {
        "task": task, "setting": setting, "system": name, "n": n, "metrics": metrics,
        "over_reference": {m: [0.0] * 3 for m in full} if name == REFERENCE else over,
        "costs": {"prompt_tokens": prompt + 0.3, "text_tokens": text, "stored_bytes": stored,
                  "ms": ms + 0.25, "effective_rate": text / prompt},
    }  # fmt: skip


def ranking_row(rng, task, n, setting, ranker):
    name, _, _, first = ranker
    most = 0.84 if setting == "normal" else 1.0
    first *= most * (rng.uniform(0.9, 1.1) if task != "average" else 1.0)
    curve = [
        most * (1 - (1 - first / most) * (1 - (k - 1) / 9) ** (1 + 3 * first)) for k in range(1, 11)
    ]
    if name == "gold":
        curve = [first, *[most] * 9]
    if name == "random":
        curve = [most * k / 10 for k in range(1, 11)]
    values = {"recall@1": curve[0], "recall@3": curve[2], "recall@5": curve[4], "precision@1": 1.5 * curve[0],
              "precision@3": curve[2] / 2, "precision@5": curve[4] / 3, "mrr": 0.5 + curve[0] / 2,
              "ndcg@10": 0.4 + 0.6 * curve[0]}  # fmt: skip
    return {
        "task": task, "setting": setting, "ranker": name, "n": n,
        "metrics": {metric: between(min(1.0, value)) for metric, value in values.items()},
        "recall_curve": curve, "expected_recall@5": 0.5 * most,
    }  # fmt: skip


def make_results(*, systems=SYSTEMS, settings=("oracle", "normal"), tasks=None):
    """A made-up evaluation of the shape that results.py gives."""
    rng = random.Random(0)
    tasks = TASKS if tasks is None else tasks
    every = tasks if len(tasks) == 1 else {**tasks, "average": sum(tasks.values())}
    says = ("Jørn Utzon", "the Danish architect Jørn Utzon", "Henry Moore", "", "in 1957, by Utzon")
    return {
        "recipe": {"limit": 100, "n_candidates": 10, "seed": 0, "batch": 16, "max_new_tokens": 24},
        "command": "openclara eval recipes/eval.toml",
        "machine": {"processor": "AMD EPYC", "threads": 2, "cuda": None, "torch": "2.13.0+cpu",
                    "python": "3.11.7"},
        "k": 5,
        "reference": REFERENCE,
        "systems": [dict(zip(("name", "reader", "ranker", "model", "n_memory", "shorten"), s, strict=False)) for s in systems],
        "rankers": [dict(zip(("name", "kind", "control"), r, strict=False)) for r in RANKERS],
        "skipped": [{"name": "reasoner, supervised", "reason": "there is no trained model at "
                     "runs/baselines/supervised; train one, or name another"}],
        "answers": [answer_row(rng, t, n, s, y) for s in settings for y in systems for t, n in every.items()],
        "retrieval": [ranking_row(rng, t, n, s, r) for s in settings for r in RANKERS for t, n in every.items()],
        "fidelity": [
            {"model": "smollm2-135m", "n_memory": m, "n": 50,
             "metrics": {"entities": between(0.31 + m / 300), "numbers": between(0.22 + m / 300),
                         "rouge_1": between(0.4 + m / 300), "rouge_l": between(0.3 + m / 300)}}
            for m in (16, 64)
        ],
        "samples": [
            {"task": t, "setting": s, "question": f"Who designed the opera house that opened in Sydney in {1973 + n}?",
             "answers": ["Jørn Utzon", "Utzon"], "predictions": {y[0]: rng.choice(says) for y in systems}}
            for n, (t, s) in enumerate((t, s) for _ in range(2) for t in tasks for s in settings)
        ],
    }  # fmt: skip
