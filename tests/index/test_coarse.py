"""The coarse stage: it nominates, and what it nominates is judged as without it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from index_cases import SPEC, one_chunk

from openclara.errors import ConfigError
from openclara.index import LatentIndex
from openclara.index.coarse import building, nominating
from openclara.index.coarse.building import Stretch, merged
from openclara.index.coarse.codes import asked_codes, codes, rotation
from openclara.index.coarse.estimating import _by_floats, _by_integers, _by_tables, estimates
from openclara.index.coarse.settings import EXACT, Coarse
from openclara.types import Document, LatentSpec

LATE = LatentSpec("tiny", "abc", n_memory=4, width=32, doc_max_length=32, score="late")
FLAT = LatentSpec("tiny", "abc", n_memory=4, width=32, doc_max_length=32)
SPECS = pytest.mark.parametrize("spec", [LATE, FLAT], ids=["late", "flat"])


@pytest.fixture(autouse=True)
def _nothing_waits(monkeypatch):
    monkeypatch.setattr(building, "WAITING_CHUNKS", 0)
    monkeypatch.setattr(building, "WAITING_SHARE", 10**9)
    monkeypatch.setattr("os.fsync", lambda _: None)


def rows_of(n, spec, seed=0):
    return torch.randn(n, spec.n_memory, spec.width, generator=torch.Generator().manual_seed(seed))


def documents(rows, first=0):
    for number, row in enumerate(rows, start=first):
        yield one_chunk(Document(f"d{number}", "text", metadata={"n": number % 10}), row)


def filled(path, rows, spec, coarse, **options):
    index = LatentIndex.open(path, spec, coarse=coarse, **options)
    index.add(documents(rows))
    return index


def found(index, queries, k=5, **options):
    hits = index.search(["q"] * len(queries), queries, k=k, mode="latent", **options)
    return [[(hit.document.id, hit.score) for hit in of_one] for of_one in hits]


def asked_of(index, monkeypatch):
    """How often the codes were asked from now on."""
    calls = []
    real = nominating.Segments._found

    def noted(self, *arguments):
        calls.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(nominating.Segments, "_found", noted)
    return calls


def everything(self, asked, question, coarse, allowed):
    """In place of `Segments.nominate`: all that the codes can nominate."""
    vectors, _ = asked.vectors(question)
    keys = self._found(vectors.flatten(0, 1), asked.n_memory, 10**4, allowed)
    keys = np.union1d(keys, self.waiting)
    return keys if allowed is None else np.intersect1d(keys, allowed)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 40),
    gone=st.integers(0, 20),
    spec=st.sampled_from([LATE, FLAT]),
    quantization=st.sampled_from(["bf16", "int8", "int4"]),
)
def test_with_every_chunk_nominated_the_result_is_the_exact_one(
    tmp_path_factory, seed, n, gone, spec, quantization
):
    path = tmp_path_factory.mktemp("i") / "i"
    rows, queries = rows_of(n, spec, seed), rows_of(3, spec, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nominating.Segments, "nominate", everything)
        coarse = Coarse(from_chunks=0)
        with filled(path, rows, spec, coarse, quantization=quantization) as index:
            index.delete(f"d{number}" for number in range(gone))
            index.add(documents(rows_of(2, spec, seed + 2), first=100))
            for where in ([], ["n>=3"]):
                ours = found(index, queries, where=where)
                assert ours == found(index, queries, where=where, exact=True)
                assert len(ours[0]) <= 5


@SPECS
def test_it_finds_what_is_near_with_few_candidates(tmp_path, monkeypatch, spec):
    rows = rows_of(600, spec)
    queries = rows[::60] + 0.5 * rows_of(10, spec, 1)
    with filled(tmp_path / "i", rows, spec, Coarse(from_chunks=0, candidates=60)) as index:
        calls = asked_of(index, monkeypatch)
        assert [hits[0][0] for hits in found(index, queries)] == [
            f"d{i}" for i in range(0, 600, 60)
        ]
        assert len(calls) == 10
        assert found(index, queries, k=1) == found(index, queries, k=1, exact=True)


@SPECS
def test_filters_hold_and_are_filled_up_to_k(tmp_path, monkeypatch, spec):
    rows, queries = rows_of(400, spec), rows_of(4, spec, 1)
    with filled(tmp_path / "i", rows, spec, Coarse(from_chunks=0, candidates=20)) as index:
        calls = asked_of(index, monkeypatch)
        narrow = found(index, queries, k=8, where=["n=3"])  # an eighth would be 50, it leaves 40
        assert narrow == found(index, queries, k=8, where=["n=3"], exact=True)
        assert not calls
        wide = index.search(["q"] * 4, queries, k=30, mode="latent", where=["n>=2"])
        assert calls
        assert [len(hits) for hits in wide] == [30] * 4
        assert all(hit.document.metadata["n"] >= 2 for hits in wide for hit in hits)
        one = index.search(["q"], queries[:1], k=30, mode="hybrid", where=["n>=2"], pool=40)
        assert all(hit.document.metadata["n"] >= 2 for hit in one[0])


def test_what_is_added_replaced_and_deleted_counts_at_once(tmp_path, monkeypatch):
    coarse = Coarse(from_chunks=0, candidates=30)
    rows = rows_of(200, LATE)
    with filled(tmp_path / "i", rows, LATE, coarse) as index:
        monkeypatch.setattr(building, "WAITING_CHUNKS", 50)
        fresh = rows_of(10, LATE, 5)
        index.add(documents(fresh, first=200))
        assert index.info().coarse_chunks == 200  # the ten wait, and are scored exactly
        assert [hits[0][0] for hits in found(index, fresh)] == [f"d{i}" for i in range(200, 210)]
        changed = Document("d7", "another text")
        index.add([one_chunk(changed, fresh[0])])
        assert {name for name, _ in found(index, fresh[:1], k=2)[0]} == {"d7", "d200"}
        index.delete(["d200"])
        assert found(index, fresh[:1], k=1)[0][0][0] == "d7"
        assert "d7" not in {name for name, _ in found(index, rows[7:8], k=5)[0]}
        index.compact()
        assert (index.info().coarse_chunks, index.n_chunks) == (210, 209)  # few dead may stay
        assert found(index, fresh[:1], k=1)[0][0][0] == "d7"


@SPECS
def test_a_prefix_of_the_memory_is_compared_as_without_it(tmp_path, spec):
    rows = rows_of(300, spec)
    with filled(tmp_path / "i", rows, spec, Coarse(from_chunks=0, candidates=100)) as index:
        queries = rows[:5, :2]
        assert found(index, queries, k=1, n_memory=2) == found(
            index, queries, k=1, n_memory=2, exact=True
        )


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_lost_segment_costs_time_and_no_answer(tmp_path, harm):
    rows, queries = rows_of(200, LATE), rows_of(3, LATE, 1)
    coarse = Coarse(from_chunks=0, candidates=20)
    with filled(tmp_path / "i", rows, LATE, coarse) as index:
        exact = found(index, queries, exact=True)
    [segment] = (tmp_path / "i").glob("coarse-*")
    if harm == "missing":
        segment.unlink()
    else:
        segment.write_bytes(segment.read_bytes()[:-10])
    with LatentIndex.open(tmp_path / "i", coarse=coarse) as index:
        assert found(index, queries) == exact
        [problem] = index.verify().problems
        assert segment.name in problem
        report = index.verify(repair=True)
        assert report.dropped == ()
        assert index.verify().ok
        assert index.info().coarse_chunks == 200
        assert len(list((tmp_path / "i").glob("coarse-*"))) == 1


def test_verify_sees_a_changed_byte(tmp_path):
    with filled(tmp_path / "i", rows_of(50, LATE), LATE, Coarse(from_chunks=0)) as index:
        [segment] = (tmp_path / "i").glob("coarse-*")
        content = bytearray(segment.read_bytes())
        content[len(content) // 2] ^= 1
        segment.write_bytes(content)
        assert "does not have the content" in index.verify().problems[0]


def test_a_small_index_gets_no_segment_and_exact_asks_none(tmp_path, monkeypatch):
    rows = rows_of(60, LATE)
    with filled(tmp_path / "i", rows, LATE, Coarse(from_chunks=61, candidates=5)) as index:
        calls = asked_of(index, monkeypatch)
        assert index.info().coarse_segments == 0
        index.add(documents(rows_of(1, LATE, 3), first=60))
        assert index.info().coarse_segments == 1
        found(index, rows[:1], exact=True)
        assert not calls
        found(index, rows[:1])
        assert calls
    with LatentIndex.open(tmp_path / "i", coarse=EXACT) as index:
        calls.clear()
        found(index, rows[:1])
        assert not calls


def test_segments_of_growing_indexes_stay_few(tmp_path):
    with LatentIndex.open(tmp_path / "i", LATE, coarse=Coarse(from_chunks=0)) as index:
        for start in range(0, 300, 10):
            index.add(documents(rows_of(10, LATE, start), first=start))
            info = index.info()
            assert info.coarse_chunks == start + 10
            assert info.coarse_segments <= 5


def test_stretches_are_merged_with_neighbours_of_their_size():
    def ranges(*sizes):
        key = 0
        for size, stale in sizes:
            yield Stretch(key + 1, key + size, size, stale)
            key += size

    def sizes(*given, capacity=10**6):
        return [(s.live, s.stale) for s in merged(list(ranges(*given)), capacity)]

    assert sizes((1000, False), (10, True)) == [(1000, False), (10, True)]
    assert sizes((30, False), (10, True)) == [(40, True)]
    assert sizes((100, False), (30, False), (10, True)) == [(140, True)]
    assert sizes((30, False), (10, True), capacity=39) == [(30, False), (10, True)]
    assert sizes((50, True), (50, True), capacity=60) == [(100, True)]


@pytest.mark.parametrize("width", [1, 6, 8, 12, 576])
def test_rotations_are_orthogonal_and_the_same_everywhere(width):
    matrix = rotation(width)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(width), atol=1e-5, rtol=0)
    rotation.cache_clear()
    assert torch.equal(matrix, rotation(width))
    if width == 8:
        # Codes are on disks: another rotation would need another SCHEME.
        assert np.unpackbits(codes(DIGITS)[0, 0]).tolist() == KNOWN


# None of its rotated values is near zero, where rounding decides and processors differ.
DIGITS = torch.tensor([[[3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, -6.0]]])
KNOWN = [1, 1, 0, 1, 0, 0, 0, 1]


def test_codes_differ_as_angles_do():
    one, other = torch.randn(2, 40, 1, 576)
    other = one + other * torch.linspace(0.1, 3, 40)[:, None, None]
    bits = np.unpackbits((codes(one) ^ codes(other))[:, 0], axis=1).mean(1)
    angles = torch.arccos(torch.cosine_similarity(one, other, dim=-1)).flatten().numpy() / np.pi
    assert np.abs(bits - angles).max() < 0.08


@pytest.mark.parametrize("score", ["late", "flat"])
def test_estimates_are_in_the_order_of_the_scores_of_the_signs(score):
    torch.manual_seed(0)
    rows, question = torch.randn(40, 4, 12), torch.randn(4, 12)
    asked = asked_codes(question)
    packed = codes(rows)
    got = estimates([packed[:30].transpose(1, 0, 2), packed[30:].transpose(1, 0, 2)], asked, score)
    bits = ((rows @ rotation(12)) > 0).float()
    products = bits @ asked[:12].float()
    wanted = (
        products.amax(1).sum(1) if score == "late" else products.diagonal(dim1=1, dim2=2).sum(1)
    )
    assert got.tolist() == wanted.int().tolist()


def test_all_three_products_are_the_same_to_the_last_bit():
    torch.manual_seed(0)
    packed = torch.randint(0, 256, (37, 72), dtype=torch.uint8).numpy()
    asked = torch.randint(-127, 128, (576, 5), dtype=torch.int8)
    wanted = torch.from_numpy(np.unpackbits(packed, axis=1)).long() @ asked.long()
    for way in (_by_integers, _by_floats, _by_tables):
        assert torch.equal(way(asked)(packed).long(), wanted)


def test_graphs_of_an_earlier_coarse_stage_are_left_aside_and_removed(tmp_path):
    rows = rows_of(40, LATE)
    with filled(tmp_path / "i", rows, LATE, EXACT) as index:
        old = tmp_path / "i" / "coarse-000001.usearch"
        old.write_bytes(b"graph")
        with index._database.writing() as connection:
            connection.execute("CREATE TABLE graphs (key INTEGER PRIMARY KEY, name TEXT)")
            connection.execute("INSERT INTO graphs VALUES (1, 'coarse-000001.usearch')")
        assert found(index, rows[:1], k=1)[0][0][0] == "d0"
        assert index.verify().ok
        assert index.info().coarse_segments == 0
    with LatentIndex.open(tmp_path / "i", coarse=Coarse(from_chunks=0, candidates=5)) as index:
        index.delete([])
        assert not old.exists()
        assert index.info().coarse_chunks == 40
        with index._database.reading() as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert "graphs" not in tables


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="nominate at least one"):
        Coarse(candidates=0)
    with pytest.raises(ConfigError, match="use 0 or more"):
        Coarse(from_chunks=-1)


def test_an_index_of_before_the_coarse_stage_is_read_and_filled(tmp_path):
    rows = rows_of(30, SPEC)
    with filled(tmp_path / "i", rows, SPEC, EXACT) as index:
        with index._database.reading() as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert "segments" not in tables
    with LatentIndex.open(tmp_path / "i", coarse=Coarse(from_chunks=0, candidates=3)) as index:
        assert found(index, rows[:1], k=1)[0][0][0] == "d0"
        assert index.verify().ok
        index.compact()
        assert index.info().coarse_chunks == 30
