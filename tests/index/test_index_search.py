import json
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from index_cases import SPEC, compress, latents_of, one_chunk

from openclara.errors import ConfigError, DataError, IndexMismatch
from openclara.index import LatentIndex, comparing, ranking
from openclara.index.ranking import fuse, words_of
from openclara.types import Document, LatentSpec

FLAT = LatentSpec("tiny", "abc", n_memory=1, width=2, doc_max_length=8)


def ids(hits):
    return [hit.document.id for hit in hits]


def filled(path, latents, *, spec=SPEC, quantization="bf16", text="text {}"):
    index = LatentIndex.open(path, spec, quantization=quantization)
    index.add(one_chunk(Document(f"d{i}", text.format(i)), row) for i, row in enumerate(latents))
    return index


def test_cosines_by_hand(tmp_path):
    rows = torch.tensor([[[1.0, 0.0]], [[3.0, 4.0]], [[-2.0, 0.0]], [[0.0, 0.0]]])
    with filled(tmp_path / "i", rows, spec=FLAT) as index:
        [hits] = index.search(["q"], torch.tensor([[[10.0, 0.0]]]), k=9, mode="latent")
    assert [(hit.document.id, round(hit.score, 6)) for hit in hits] == [
        ("d0", 1.0),
        ("d1", 0.6),
        ("d3", 0.0),
        ("d2", -1.0),
    ]
    assert all(hit.cosine == hit.score for hit in hits)


def test_a_query_of_zeros_finds_by_order(tmp_path):
    with filled(tmp_path / "i", torch.randn(5, 4, 8)) as index:
        [hits] = index.search(["q"], torch.zeros(1, 4, 8), k=3, mode="latent")
    assert [(hit.document.id, hit.score) for hit in hits] == [("d0", 0), ("d1", 0), ("d2", 0)]


def oracle(rows, query, k):
    flat = rows.to(torch.bfloat16).double().flatten(1).numpy()
    vector = query.double().flatten().numpy()
    scores = flat @ vector / np.linalg.norm(flat, axis=1) / np.linalg.norm(vector)
    order = sorted(range(len(scores)), key=lambda row: (-np.float32(scores[row]), row))[:k]
    return [f"d{row}" for row in order], scores[order]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 60),
    prefix=st.integers(1, 4),
    k=st.integers(1, 70),
    copies=st.booleans(),
)
def test_latent_search_is_brute_force(tmp_path_factory, seed, n, prefix, k, copies):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 4, 8, generator=generator)
    if copies:
        rows = rows[torch.randint(0, max(1, n // 4), (n,), generator=generator)]
    queries = torch.randn(3, prefix, 8, generator=generator)
    with filled(tmp_path_factory.mktemp("o") / "i", rows) as index:
        found = index.search(["a", "b", "c"], queries, k=k, mode="latent")
    for hits, query in zip(found, queries, strict=True):
        expected, scores = oracle(rows[:, :prefix], query, k)
        assert ids(hits) == expected
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=2e-6)


@pytest.mark.parametrize("quantization", ["bf16", "int8", "int4"])
def test_ties_keep_the_order_of_insertion_wherever_rows_lie(tmp_path, monkeypatch, quantization):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 5 * 32 * 4)  # blocks of five rows
    monkeypatch.setattr("openclara.index.adding.GROUP_DOCUMENTS", 7)
    row = torch.randn(4, 8)
    with filled(tmp_path / "i", row.expand(50, 4, 8), quantization=quantization) as index:
        assert index.info().shards > 5
        query = torch.randn(1, 4, 8)
        expected = [f"d{i}" for i in range(20)]
        assert ids(index.search(["q"], query, k=20, mode="latent")[0]) == expected
        index.delete(["d3", "d4"])
        index.compact()
        found = ids(index.search(["q"], query, k=20, mode="latent")[0])
    assert found == [f"d{i}" for i in range(22) if i not in (3, 4)]


def test_thousands_of_copies_still_give_the_first(tmp_path):
    rows = torch.randn(1, 4, 8).expand(3000, 4, 8)
    with filled(tmp_path / "i", rows, quantization="int8") as index:
        assert ids(index.search(["q"], rows[:1], k=2, mode="latent")[0]) == ["d0", "d1"]


@pytest.mark.parametrize("quantization", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("prefix", [1, 3, 4])
def test_hits_carry_the_prefix_that_was_compared(tmp_path, quantization, prefix):
    rows = torch.randn(6, 4, 8)
    with filled(tmp_path / "i", rows, quantization=quantization) as index:
        [hits] = index.search(["q"], rows[2:3, :prefix], k=1, mode="latent")
        assert index.search(["q"], rows[:1], k=1, with_latents=False)[0][0].latents is None
    [hit] = hits
    assert (hit.document.id, hit.text, hit.n_tokens) == ("d2", "text 2", 3)
    assert hit.latents.shape == (prefix, 8)
    assert hit.latents.dtype == (torch.bfloat16 if quantization == "bf16" else torch.float32)
    error = (hit.latents.float() - rows[2, :prefix]).norm() / rows[2, :prefix].norm()
    assert error < {"bf16": 0.01, "int8": 0.02, "int4": 0.2}[quantization]
    cosine = torch.cosine_similarity(hit.latents.float().flatten(), rows[2, :prefix].flatten(), 0)
    assert hit.score == pytest.approx(cosine.item(), abs=1e-6)


def test_latents_of_hits_outlive_the_index(tmp_path):
    rows = torch.randn(6, 4, 8)
    with filled(tmp_path / "i", rows) as index:
        [[hit]] = index.search(["q"], rows[2:3], k=1, mode="latent")
    hit.latents.add_(1)
    with LatentIndex.open(tmp_path / "i") as index:
        assert index.verify().ok


@pytest.mark.parametrize(("quantization", "least"), [("int8", 0.95), ("int4", 0.7)])
def test_quantized_recall_is_near_that_of_bf16(tmp_path, quantization, least):
    spec = LatentSpec("tiny", "abc", n_memory=4, width=64, doc_max_length=8)
    rows, queries = torch.randn(400, 4, 64), torch.randn(20, 4, 64)
    found = []
    for kind in ("bf16", quantization):
        with filled(tmp_path / kind, rows, spec=spec, quantization=kind) as index:
            found.append(index.search(["q"] * 20, queries, k=10, mode="latent"))
    shared = sum(len({*ids(a)} & {*ids(b)}) for a, b in zip(*found, strict=True))
    assert shared / 200 >= least


TEXTS = {
    "opera": "The Sydney Opera House was designed by Utzon",
    "bridge": "The Harbour Bridge opened in the year 1932",
    "cafe": "Cafés run all night; running is not allowed",
    "near": "AND NOT OR NEAR are operators",
}


@pytest.fixture
def words(tmp_path):
    with LatentIndex.open(tmp_path / "i", SPEC) as index:
        index.add(
            one_chunk(Document(name, text, title=f"On {name}s"), latents_of(text))
            for name, text in TEXTS.items()
        )
        yield index


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who designed the opera?", ["opera"]),
        ("BRIDGES", ["bridge"]),
        ("cafe", ["cafe"]),
        ("operas", ["opera"]),
        ("1932", ["bridge"]),
        ("zebra", []),
        ("?!*", []),
    ],
)
def test_lexical_search_matches_stems_in_text_and_title(words, question, expected):
    assert ids(words.search([question], None, k=5, mode="lexical")[0]) == expected


@pytest.mark.parametrize(
    "question",
    [
        '"',
        '"" ""',
        "NEAR(a b)",
        "AND",
        "a AND",
        "title: x",
        "title:opera",
        "-x ^x x*",
        "(((",
        "a\0b",
        "'; DROP TABLE words; --",
        "{a b} : c",
        "\ud800",
        "x" * 10000,
        " ".join(f"w{i}" for i in range(3000)),
        "हिन्दी 中文",
    ],
)
@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_no_question_is_an_operator(words, question, mode):
    words.search([question], torch.ones(1, 4, 8), k=5, mode=mode)
    assert words.verify().ok


def test_operators_are_words(words):
    assert ids(words.search(["NEAR(operators)"], None, k=5, mode="lexical")[0]) == ["near"]
    [hits] = words.search(["zebra AND opera"], None, k=5, mode="lexical")
    assert {*ids(hits)} == {"opera"}
    assert ids(words.search(["opera*"], None, k=5, mode="lexical")[0]) == ["opera"]
    assert ids(words.search(["-opera"], None, k=5, mode="lexical")[0]) == ["opera"]


def test_questions_become_quoted_words():
    assert words_of('say "hi" AND say_it') == '"say" OR "hi"'
    assert words_of("to be AND not") == '"not"'
    assert words_of("Who is it?") == '"Who" OR "is" OR "it"'
    assert words_of(" *?") is None


def test_a_word_in_fewer_and_shorter_texts_scores_higher(words):
    [hits] = words.search(["the opera house"], None, k=5, mode="lexical")
    assert hits[0].document.id == "opera"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].score > 0
    assert hits[0].cosine is None
    assert hits[0].latents.shape == (4, 8)


def test_lexical_hits_know_their_cosine_where_the_question_has_latents(words):
    [[hit]] = words.search(["Utzon"], latents_of(TEXTS["opera"])[None], k=5, mode="lexical")
    assert hit.cosine == pytest.approx(1, abs=1e-4)


def test_fusion_by_hand():
    fused = fuse({1: 0.9, 2: 0.8, 3: 0.7}, {3: 5.0, 1: 4.0})
    assert list(fused) == [1, 3, 2]
    assert fused[1] == pytest.approx((1 + 61 / 62) / 2)
    assert fused[3] == pytest.approx((61 / 63 + 1) / 2)
    assert fused[2] == pytest.approx(61 / 62 / 2)
    assert fuse({7: 0.1}, {7: 1.0}) == {7: 1.0}
    assert list(fuse({1: 0.9, 2: 0.8, 3: 0.7}, {3: 5.0, 1: 4.0}, latent_weight=0.1)) == [3, 1, 2]
    assert fuse({1: 0.9, 2: 0.8}, {2: 5.0}, latent_weight=0.0) == {2: 1.0, 1: 0.0}


def test_ties_of_the_fusion_go_to_the_higher_cosine():
    assert list(fuse({1: 0.2, 2: 0.3}, {1: 9.0, 2: 8.0})) == [2, 1]


def test_hybrid_leads_with_what_leads_both(words):
    [hits] = words.search(["Utzon's opera house"], latents_of(TEXTS["opera"])[None], k=4)
    assert hits[0].document.id == "opera"
    assert hits[0].score == 1.0
    assert hits[0].cosine == pytest.approx(1, abs=1e-4)
    assert len(hits) == 4


def test_each_side_nominates_for_a_hybrid_search(words):
    # pool=1: the latents nominate the bridge, the word the opera; both are then ranked by both.
    latents = latents_of(TEXTS["bridge"])[None]
    [hits] = words.search(["Utzon"], latents, k=1, pool=1)
    assert ids(hits) == ["opera"]
    [hits] = words.search(["Utzon"], latents, k=2, pool=1)
    assert {*ids(hits)} == {"bridge", "opera"}
    # The opera leads by words and is second by cosine; the bridge has no word of the question.
    assert ids(hits)[0] == "opera"
    assert all(hit.cosine is not None for hit in hits)


def test_a_hybrid_search_without_any_word_is_the_latent_search(words):
    query = torch.randn(1, 4, 8)
    hybrid = words.search(["?!"], query, k=4)
    assert ids(hybrid[0]) == ids(words.search(["?!"], query, k=4, mode="latent")[0])


def test_equal_texts_of_two_documents_are_both_found(tmp_path):
    with LatentIndex.open(tmp_path / "i", SPEC) as index:
        index.add([compress(Document("a", "same text")), compress(Document("b", "same text"))])
        for mode in ("latent", "lexical", "hybrid"):
            hits = index.search(["same"], latents_of("same text")[None], k=5, mode=mode)[0]
            assert ids(hits) == ["a", "b"]


@pytest.mark.parametrize("mode", ["latent", "lexical", "hybrid"])
def test_an_empty_index_finds_nothing(tmp_path, mode):
    with LatentIndex.open(tmp_path / "i", SPEC) as index:
        assert index.search(["a", "b"], torch.ones(2, 4, 8), k=3, mode=mode) == [[], []]
        assert index.search([], torch.ones(0, 4, 8), k=3, mode=mode) == []


@pytest.mark.parametrize(
    ("questions", "latents", "options", "error", "message"),
    [
        (["q"], torch.ones(1, 4, 8), {"k": 0}, ConfigError, "k and pool"),
        (["q"], torch.ones(1, 4, 8), {"k": 1, "pool": 0}, ConfigError, "k and pool"),
        (["q"], torch.ones(1, 4, 8), {"k": 1, "mode": "magic"}, ConfigError, "'magic'"),
        ("q", torch.ones(1, 4, 8), {"k": 1}, ConfigError, "in a list"),
        (["q"], None, {"k": 1}, ConfigError, "needs the latents"),
        (["q"], None, {"k": 1, "mode": "latent"}, ConfigError, "needs the latents"),
        (["q"], torch.ones(2, 4, 8), {"k": 1}, ConfigError, "shape"),
        (["q"], torch.ones(1, 4, 9), {"k": 1}, ConfigError, "shape"),
        (["q"], torch.ones(4, 8), {"k": 1}, ConfigError, "shape"),
        (["q"], torch.ones(1, 5, 8), {"k": 1}, ConfigError, "5 memory tokens"),
        (["q"], torch.ones(1, 0, 8), {"k": 1}, ConfigError, "0 memory tokens"),
        (["q"], torch.full((1, 4, 8), torch.nan), {"k": 1}, DataError, "not finite"),
        (["q", " \n"], torch.ones(2, 4, 8), {"k": 1}, DataError, "question 1 is empty"),
        ([""], None, {"k": 1, "mode": "lexical"}, DataError, "question 0 is empty"),
    ],
)
def test_what_does_not_fit_is_refused(words, questions, latents, options, error, message):
    with pytest.raises(error, match=message):
        words.search(questions, latents, **options)


def test_queries_may_come_in_half_precision_with_gradients(words):
    query = latents_of(TEXTS["opera"])[None]
    expected = ids(words.search(["q"], query, k=4, mode="latent")[0])
    leaf = query.to(torch.bfloat16).requires_grad_()
    assert ids(words.search(["q"], leaf, k=4, mode="latent")[0]) == expected


def test_blocks_and_filters_change_no_score(tmp_path, monkeypatch):
    rows, query = torch.randn(200, 4, 8), torch.randn(2, 3, 8)
    with filled(tmp_path / "i", rows) as index:
        whole = index.search(["a", "b"], query, k=10, mode="latent")
        monkeypatch.setattr(ranking, "BLOCK_BYTES", 3 * 24 * 4)
        assert index.search(["a", "b"], query, k=10, mode="latent") == whole
        best = [hit.document.id for hit in whole[0][:5]]
        [hits] = index.search(["a"], query[:1], k=5, mode="latent", where=[f"id!={best[0]}"])
        assert hits[:4] == whole[0][1:5]


def test_norms_are_computed_once(tmp_path, monkeypatch):
    with filled(tmp_path / "i", torch.randn(50, 4, 8)) as index:
        first = index.search(["q"], torch.ones(1, 4, 8), k=50, mode="latent")

        def fail(*_, **__):
            raise AssertionError("computed again")

        monkeypatch.setattr(comparing.Flat, "norms", fail)
        monkeypatch.setattr("openclara.index.search.exact", lambda view, s, *_: [0.0] * len(s))
        second = index.search(["q"], torch.ones(1, 4, 8), k=50, mode="latent")
        assert len(first[0]) == len(second[0]) == 50


LATE = LatentSpec("tiny", "abc", n_memory=4, width=8, doc_max_length=32, score="late")


def late_oracle(rows, query, n_memory):
    """Scores by loops: each latent of the question takes its best unit latent of the row."""
    scores = []
    for row in rows.to(torch.bfloat16).double()[:, :n_memory]:
        unit = [latent / latent.norm() for latent in row]
        scores.append(sum(max(float(asked @ one) for one in unit) for asked in query.double()))
    return scores


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 40),
    n_asked=st.integers(1, 4),
    n_memory=st.integers(1, 4),
)
def test_late_search_is_exact(tmp_path_factory, seed, n, n_asked, n_memory):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 4, 8, generator=generator)
    query = torch.randn(2, n_asked, 8, generator=generator)
    path = tmp_path_factory.mktemp("late") / "i"
    with filled(path, rows, spec=LATE) as index:
        found = index.search(["a", "b"], query, k=5, mode="latent", n_memory=n_memory)
        everything = index.search(["a", "b"], query, k=n, mode="latent", n_memory=n_memory)
    for hits, all_hits, asked in zip(found, everything, query, strict=True):
        scores = late_oracle(rows, asked, n_memory)
        expected = sorted(range(n), key=lambda row: (-np.float32(scores[row]), row))
        assert [hit.score for hit in hits] == pytest.approx([scores[i] for i in expected[:5]])
        assert sorted(ids(all_hits)) == sorted(f"d{i}" for i in range(n))
        assert all(hit.latents.shape == (n_memory, 8) for hit in hits)


def test_a_question_may_have_fewer_latents_than_a_chunk_under_a_late_score_only(tmp_path):
    with filled(tmp_path / "late", torch.randn(3, 4, 8), spec=LATE) as index:
        [hits] = index.search(["q"], torch.randn(1, 2, 8), k=1, mode="latent")
        assert hits[0].latents.shape == (4, 8)
    with (
        filled(tmp_path / "flat", torch.randn(3, 4, 8)) as index,
        pytest.raises(ConfigError, match="as many"),
    ):
        index.search(["q"], torch.randn(1, 2, 8), k=1, mode="latent", n_memory=4)


def test_the_score_is_part_of_what_an_index_is(tmp_path):
    filled(tmp_path / "i", torch.randn(3, 4, 8), spec=LATE).close()
    with pytest.raises(IndexMismatch, match="score=late, but score=flat"):
        LatentIndex.open(tmp_path / "i", SPEC)


def test_an_index_from_before_scores_were_written_down_is_flat(tmp_path):
    filled(tmp_path / "i", torch.randn(3, 4, 8)).close()
    manifest = tmp_path / "i" / "index.json"
    content = json.loads(manifest.read_text())
    del content["spec"]["score"]
    manifest.write_text(json.dumps(content))
    with LatentIndex.open(tmp_path / "i", SPEC) as index:
        assert index.spec.score == "flat"


def test_threads_may_search_while_one_adds(tmp_path):
    rows = torch.randn(300, 4, 8)
    failures, done = [], threading.Event()
    with filled(tmp_path / "i", rows[:20], text="word {}") as index:

        def search():
            while not done.is_set():
                try:
                    [hits] = index.search(["word"], rows[5:6], k=3)
                    assert "d5" in ids(hits)
                except Exception as error:
                    failures.append(error)
                    return

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for start in range(20, 300, 20):
                index.add(
                    one_chunk(Document(f"d{i}", f"word {i}"), rows[i])
                    for i in range(start, start + 20)
                )
            index.delete(f"d{i}" for i in range(100, 200))
            index.compact()
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert len(index) == 200


def test_documents_by_name_with_their_latents(tmp_path):
    documents = [Document(f"d{i}", f"text number {i} and some more of it") for i in range(4)]
    with LatentIndex.open(tmp_path / "i", SPEC) as index:
        index.add(map(compress, documents))
        index.delete(["d1"])
        index.add([compress(Document("d2", "quite another text by now"))])
        for n_memory in (None, 2):
            found = index.hits(["d3", "d2", "d3"], n_memory=n_memory)
            assert [ids(hits) for hits in found] == [["d3"] * 3, ["d2"] * 3, ["d3"] * 3]
            for hit in found[1]:
                expected = latents_of(hit.text)[:n_memory].to(torch.bfloat16)
                assert torch.equal(hit.latents, expected)
            assert "".join(hit.text for hit in found[0]) == documents[3].text
        assert index.hits([]) == []
        with pytest.raises(DataError, match="no document 'd1'"):
            index.hits(["d0", "d1"])
        with pytest.raises(ConfigError, match="use 1 to that"):
            index.hits(["d0"], n_memory=5)
