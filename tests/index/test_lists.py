"""Inverted lists of latents: what they nominate, and what becomes of lists that are damaged."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from test_coarse import _nothing_waits, documents, filled, found  # noqa: F401 - a fixture
from torch.nn.functional import normalize

from openclara.index import LatentIndex
from openclara.index.coarse import lists, segment
from openclara.index.coarse.lists import Lists, sample_size
from openclara.index.coarse.settings import Coarse
from openclara.types import LatentSpec

LATE = LatentSpec("tiny", "abc", n_memory=4, width=30, doc_max_length=32, score="late")
FEW = Coarse(from_chunks=0, candidates=40)
CHUNKS = 800
ALL = CHUNKS * LATE.n_memory


@pytest.fixture(autouse=True)
def _lists_for_few(monkeypatch):
    monkeypatch.setattr(lists, "MIN_LATENTS", 1024)


def rows_of(n, seed=0):
    """Latents about some centres, as those of texts are about some matters."""
    stream = torch.Generator().manual_seed(seed)
    centres = torch.randn(40, LATE.width, generator=torch.Generator().manual_seed(99))
    near = centres[torch.randint(40, (n, LATE.n_memory), generator=stream)]
    return near + 0.7 * torch.randn(n, LATE.n_memory, LATE.width, generator=stream)


def filled_lists(rows):
    made = Lists.learned(rows.flatten(0, 1)[: sample_size(ALL)], ALL)
    for part in rows.split(150):
        made.add(part.flatten(0, 1))
    return made


def exactly(question, rows):
    return (normalize(rows, dim=2) @ question.T).amax(1).sum(1).numpy()


def test_estimates_are_near_the_scores_when_all_is_found(monkeypatch):
    monkeypatch.setattr(lists, "VISITED_SHARE", 1)
    rows, question = rows_of(CHUNKS), rows_of(1, 5)[0] * torch.tensor([[0.5], [0.3], [0.1], [0.1]])
    chunks, estimates = filled_lists(rows).nearest(question, ALL, LATE.n_memory, None)
    assert chunks.tolist() == list(range(CHUNKS))
    wanted = exactly(question, rows)
    assert np.corrcoef(estimates, wanted)[0, 1] > 0.85
    # Scores, not only their order: those of several segments are compared.
    assert np.abs(estimates - wanted).mean() < 0.5 * wanted.std()


def test_what_was_not_found_counts_as_the_last_that_was():
    rows = rows_of(CHUNKS)
    question = rows[7] + 0.3 * rows_of(1, 5)[0]
    made = filled_lists(rows)
    chunks, estimates = made.nearest(question, 50, LATE.n_memory, None)
    assert 50 <= len(chunks) <= 200
    # The 50 best of every vector by themselves, put together the slow way.
    sums, least = dict.fromkeys(range(CHUNKS), 0.0), 0.0
    for vector in question:
        alone, best = made.nearest(vector[None], 50, LATE.n_memory, None)
        for chunk, product in zip(alone, best, strict=True):
            sums[chunk] += float(product) - float(best.min())
        least += float(best.min())
    assert estimates == pytest.approx([sums[chunk] + least for chunk in chunks], abs=1e-4)
    assert chunks[estimates.argmax()] == exactly(question, rows).argmax() == 7


def test_only_allowed_latents_are_found():
    rows, question = rows_of(CHUNKS), rows_of(1, 5)[0]
    allowed = np.zeros((CHUNKS, LATE.n_memory), dtype=np.bool_)
    allowed[::3, :2] = True
    chunks, _ = filled_lists(rows).nearest(question, 100, LATE.n_memory, allowed.ravel())
    assert len(chunks)
    assert (chunks % 3 == 0).all()
    none = np.zeros(ALL, dtype=np.bool_)
    chunks, estimates = filled_lists(rows).nearest(question, 100, LATE.n_memory, none)
    assert (len(chunks), len(estimates)) == (0, 0)


def test_written_and_read_they_are_the_same():
    rows, question = rows_of(CHUNKS), rows_of(1, 5)[0]
    made = filled_lists(rows)
    ours, theirs = made, Lists.read(made.content())
    for one, other in zip(
        ours.nearest(question, 70, 4, None), theirs.nearest(question, 70, 4, None), strict=True
    ):
        assert np.array_equal(one, other)


def test_few_latents_get_no_lists(monkeypatch):
    monkeypatch.undo()
    assert sample_size(lists.MIN_LATENTS - 1) == 0
    for n_latents in (lists.MIN_LATENTS, 2**19, 2**22, 2**26):
        assert 0 < sample_size(n_latents) <= n_latents
    assert sample_size(2**26) == sample_size(2**22)


# ---- in an index ----


def has_lists(path):
    with safe_open(path, framework="pt") as file:
        return "lists" in file.keys()  # noqa: SIM118 - not a mapping


def test_an_index_finds_by_lists_what_it_finds_exactly(tmp_path):
    rows = rows_of(CHUNKS)
    questions = rows[::80] + 0.3 * rows_of(10, 1)
    with filled(tmp_path / "i", rows, LATE, FEW, quantization="bf16") as index:
        [written] = (tmp_path / "i").glob("coarse-*")
        assert has_lists(written)
        assert found(index, questions, k=1) == found(index, questions, k=1, exact=True)
        # Grown by a large part with lists and by a small one without.
        index.add(documents(rows_of(CHUNKS, 7), first=1000))
        index.add(documents(rows_of(20, 8), first=2000))
        kept = [has_lists(path) for path in (tmp_path / "i").glob("coarse-*")]
        assert sum(kept) >= 1
        for seed, at in ((7, 1000), (8, 2000)):
            asked = rows_of(20, seed)[:3]
            assert [hits[0][0] for hits in found(index, asked)] == [f"d{at + n}" for n in range(3)]


def test_filters_prefixes_and_deletions_hold_with_lists(tmp_path):
    rows = rows_of(CHUNKS)
    with filled(tmp_path / "i", rows, LATE, FEW, quantization="bf16") as index:
        wide = index.search(["q"] * 4, rows[:4], k=30, mode="latent", where=["n>=2"])
        assert [len(hits) for hits in wide] == [30] * 4
        assert all(hit.document.metadata["n"] >= 2 for hits in wide for hit in hits)
        short = found(index, rows[:5, :2], k=1, n_memory=2)
        assert short == found(index, rows[:5, :2], k=1, n_memory=2, exact=True)
        index.delete(["d3"])
        assert "d3" not in {name for name, _ in found(index, rows[3:4])[0]}


def test_damaged_lists_are_never_parsed_and_cost_no_hit(tmp_path, monkeypatch):
    rows = rows_of(CHUNKS)
    with filled(tmp_path / "i", rows, LATE, FEW, quantization="bf16") as index:
        wanted = found(index, rows[:5], k=1)
    [written] = (tmp_path / "i").glob("coarse-*")
    content = bytearray(written.read_bytes())
    with safe_open(written, framework="pt") as file:
        at = bytes(content).index(file.get_tensor("lists").numpy().tobytes())
    content[at + 100] ^= 255
    written.write_bytes(content)

    def refuse(content):
        raise AssertionError("parsed")

    monkeypatch.setattr(segment.Lists, "read", refuse)
    with LatentIndex.open(tmp_path / "i", coarse=FEW) as index:
        assert found(index, rows[:5], k=1) == wanted
        assert "does not have the content" in index.verify().problems[0]
