"""Rankers: controls, the lexical and latent ones against independent computations."""

from __future__ import annotations

import random

import pytest
import torch
from small_eval import recipe_of, write_task

from openclara import Clara
from openclara.evaluation.metrics import interval
from openclara.evaluation.models import LatentStore
from openclara.evaluation.rankers import Gold, Hybrid, Latent, Lexical, Random
from openclara.evaluation.relevance import expected_random_recall, recall_at
from openclara.evaluation.tasks import Question, load_tasks, passage

pytest.importorskip("bm25s")


@pytest.fixture
def task(tmp_path):
    write_task(tmp_path)
    return load_tasks(recipe_of(tmp_path, "any"))[0]


@pytest.fixture
def clara(tiny_model):
    return Clara.load(str(tiny_model), device="cpu", precision="fp32")


@pytest.fixture
def store(clara, tmp_path):
    store = LatentStore(
        clara, tmp_path, fingerprint="f" * 64, n_memory=4, on_compressed=lambda n: None
    )
    yield store
    store.close()


def test_random_orders_reach_the_recall_they_are_expected_to():
    """The control that shows that recall is counted right."""
    rng = random.Random(1)
    questions, relevant = [], []
    for number in range(1500):
        n_candidates = rng.choice([7, 10, 20])
        documents = tuple(passage("", f"{number} {i}") for i in range(n_candidates))
        questions.append(Question(f"q{number}", "?", documents))
        relevant.append(frozenset(rng.sample(range(n_candidates), rng.choice([1, 2, 4]))))
    orders = Random(0).rank(questions)
    for k in (1, 3, 5):
        pairs = list(zip(questions, orders, relevant, strict=True))
        found = interval([recall_at(order, gold, len(gold), k) for _, order, gold in pairs])
        expected = sum(
            expected_random_recall(len(q.candidates), len(gold), len(gold), k)
            for q, _, gold in pairs
        ) / len(pairs)
        assert found.low <= expected <= found.high
    assert Random(0).rank(questions) == orders
    assert Random(1).rank(questions) != orders


def test_the_gold_control_finds_everything(task):
    gold = Gold(
        {q.id: labels.relevant for q, labels in zip(task.questions, task.labels, strict=True)}
    )
    for order, labels in zip(gold.rank(task.questions), task.labels, strict=True):
        assert recall_at(order, labels.relevant, labels.n_relevant, 1) == 1.0
        assert sorted(order) == list(range(5))


def test_words_find_the_passage_that_shares_them(task):
    orders = Lexical().rank(task.questions)
    assert [order[0] for order in orders] == [2] * 8
    nothing = Question("q", "zzz", task.questions[0].candidates)
    assert Lexical().rank([nothing]) == [[0, 1, 2, 3, 4]]


def test_latent_scores_are_the_cosines_of_both_roles(task, clara, store):
    found = Latent(clara, store, n_memory=3).scores(task.questions)
    for question, row in zip(task.questions, found, strict=True):
        query = clara.latents([question.text], role="reasoner", n_memory=3).flatten()
        for document, score in zip(question.candidates, row, strict=True):
            stretches = [hit.latents.flatten() for hit in clara.read([document], n_memory=3)]
            cosines = [torch.cosine_similarity(query, own, dim=0).item() for own in stretches]
            # Stored in 16 bits.
            assert score == pytest.approx(max(cosines), abs=5e-3)


def test_hybrid_lies_between_its_sides(task, clara, store):
    latent = Latent(clara, store, n_memory=4)
    assert Hybrid(latent, latent_weight=0.0).rank(task.questions) == Lexical().rank(task.questions)
    by_latents = [order[0] for order in latent.rank(task.questions)]
    only = Hybrid(latent, latent_weight=1.0).rank(task.questions)
    assert [order[0] for order in only] == by_latents


def test_a_passage_is_compressed_once(task, clara, store, monkeypatch):
    compressed = []
    real = clara.latents

    def counting(texts, *, role, **rest):
        if role == "compressor":
            compressed.extend(texts)
        return real(texts, role=role, **rest)

    monkeypatch.setattr(clara, "latents", counting)
    for _ in range(2):
        Latent(clara, store, n_memory=4).rank(task.questions)
    assert len(compressed) == len(set(compressed)) > 0
