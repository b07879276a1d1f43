import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from index_cases import SPEC, Stream, compress, latents_of

from openclara.errors import FormatError, OpenClaraError
from openclara.index import AddReport, LatentIndex, adding
from openclara.types import Document

DOCUMENTS = [Document(f"d{i}", f"the text of number {i}", title=f"T{i}") for i in range(6)]
QUERY = torch.ones(1, 4, 8)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An index of three shards, two documents in each."""
    monkeypatch.setattr(adding, "GROUP_DOCUMENTS", 2)
    with LatentIndex.open(tmp_path / "i", SPEC) as index:
        index.add(map(compress, DOCUMENTS))
    return tmp_path / "i"


def shard(path, number):
    return path / f"latents-{number:06d}.safetensors"


def change_byte(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)


def sql(path, *statements):
    with closing(sqlite3.connect(path / "documents.sqlite")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def truncate(file):
    file.write_bytes(file.read_bytes()[:-10])


def same_size_no_header(file):
    file.write_bytes(b"\xff" * file.stat().st_size)


@pytest.mark.parametrize("damage", [truncate, same_size_no_header, Path.unlink])
def test_a_search_names_the_damaged_shard_and_the_command(path, damage):
    damage(shard(path, 2))
    with (
        LatentIndex.open(path) as index,
        pytest.raises(FormatError, match=r"latents-000002.*openclara index verify .* --repair"),
    ):
        index.search(["q"], QUERY, k=1, mode="latent")


def test_a_shard_with_other_tensors_is_refused(path):
    from safetensors.torch import save

    content = save({"latents": torch.zeros(4, 8, 4, dtype=torch.bfloat16)})
    assert len(content) == shard(path, 2).stat().st_size
    shard(path, 2).write_bytes(content)
    with LatentIndex.open(path) as index, pytest.raises(FormatError, match="000002"):
        index.search(["q"], QUERY, k=1, mode="latent")


@pytest.mark.parametrize(
    "damage",
    [truncate, same_size_no_header, Path.unlink, lambda file: change_byte(file, -1)],
)
def test_repair_drops_what_is_damaged_and_nothing_else(path, damage):
    damage(shard(path, 2))
    with LatentIndex.open(path) as index:
        [problem] = index.verify().problems
        assert "latents-000002" in problem
        assert len(index) == 6
        report = index.verify(repair=True)
        assert report.problems == (problem,)
        assert report.dropped == ("d2", "d3")
        assert index.verify().ok
        assert [document.id for document in index.documents()] == ["d0", "d1", "d4", "d5"]
        assert not shard(path, 2).exists()
        stream = Stream(DOCUMENTS)
        assert index.add(stream) == AddReport(added=2, unchanged=4, chunks=4)
        assert stream.compressed == ["d2", "d3"]
        query = latents_of("number 3")[None]
        assert index.search(["q"], query, k=1, mode="latent")[0][0].document.id == "d3"
        assert index.verify().ok


def test_every_byte_of_a_shard_is_checked(path):
    for position in range(0, shard(path, 1).stat().st_size, 7):
        change_byte(shard(path, 1), position)
        with LatentIndex.open(path) as index:
            assert len(index.verify().problems) == 1
        change_byte(shard(path, 1), position)
    with LatentIndex.open(path) as index:
        assert index.verify().ok


def test_damage_is_not_rewritten_under_a_new_hash(path):
    change_byte(shard(path, 3), -1)
    with LatentIndex.open(path) as index:
        before = sorted(p.name for p in path.iterdir())
        with pytest.raises(FormatError, match="000003"):
            index.compact()
        assert sorted(p.name for p in path.iterdir()) == before
        assert "latents-000003" in index.verify().problems[0]


@pytest.mark.parametrize(
    ("statement", "problem", "dropped"),
    [
        ("UPDATE chunks SET row = 77 WHERE key = 1", "points to row 77", ("d0",)),
        ("UPDATE chunks SET shard = 9 WHERE key = 3", "which is not there", ("d1",)),
        ("UPDATE chunks SET end = 999 WHERE key = 4", "a chunk from 12 to 999", ("d1",)),
        (
            "UPDATE documents SET text = CAST('x' || substr(text, 2) AS BLOB)",
            "is not what was written",
            None,
        ),
        ("UPDATE documents SET text = X'FF' WHERE id = 'd5'", "is not what was written", ("d5",)),
        (
            "UPDATE documents SET title = 'other' WHERE id = 'd2'",
            "the title or text of document 'd2' is not what was written",
            ("d2",),
        ),
        ("INSERT INTO words (words) VALUES ('delete-all')", "the word index", ()),
        ("INSERT INTO words (rowid, body) VALUES (99, 'ghost')", "the word index", ()),
    ],
)
def test_verify_finds_rows_that_do_not_fit_and_repair_mends_them(path, statement, problem, dropped):
    sql(path, statement)
    with LatentIndex.open(path) as index:
        assert any(problem in found for found in index.verify().problems)
        expected = tuple(d.id for d in DOCUMENTS) if dropped is None else dropped
        assert index.verify(repair=True).dropped == expected
        assert index.verify().problems == ()
        assert len(index) == 6 - len(expected)
        index.add(map(compress, DOCUMENTS))
        assert len(index) == 6
        assert index.verify().problems == ()


def test_a_damaged_database_is_said_to_be_damaged(path):
    (path / "documents.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(FormatError, match=r"documents.sqlite is damaged.*restore it from a backup"):
        LatentIndex.open(path)


def test_an_empty_database_is_said_to_be_damaged(path):
    (path / "documents.sqlite").write_bytes(b"")
    with pytest.raises(FormatError, match=r"documents.sqlite is damaged"):
        LatentIndex.open(path)


def test_a_missing_database_is_not_made_anew(path):
    (path / "documents.sqlite").unlink()
    with pytest.raises(FormatError, match=r"documents.sqlite is damaged or missing"):
        LatentIndex.open(path, SPEC)
    assert not (path / "documents.sqlite").exists()


def test_a_database_without_a_column_is_said_to_be_damaged(path):
    sql(path, "ALTER TABLE documents DROP COLUMN framed_sha256")
    with LatentIndex.open(path) as index, pytest.raises(FormatError, match=r"sqlite is damaged"):
        index.add(map(compress, DOCUMENTS))


def test_a_commit_is_on_the_disk_before_it_is_reported(path):
    with LatentIndex.open(path) as index, index._database.writing() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        full = 2
        assert connection.execute("PRAGMA synchronous").fetchone() == (full,)


def test_damaged_pages_are_found(path):
    file = path / "documents.sqlite"
    content = bytearray(file.read_bytes())
    content[3 * 4096 : -4096] = os.urandom(len(content) - 4 * 4096)
    file.write_bytes(content)
    try:
        with LatentIndex.open(path) as index:
            found = index.verify().problems
    except FormatError as error:
        found = (str(error),)
    assert any("documents.sqlite" in problem for problem in found)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_only_the_group_under_way(path, monkeypatch):
    more = [Document(f"m{i}", f"more {i}") for i in range(6)]
    real, calls = os.fsync, 0

    def fills_up(descriptor):
        nonlocal calls
        calls += 1
        # Two calls for each shard: the file and the folder. The second shard fails.
        return full_disk() if calls > 2 else real(descriptor)

    with LatentIndex.open(path) as index:
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", fills_up)
            with pytest.raises(OpenClaraError, match=r"the disk is full: .*run again"):
                index.add(map(compress, more))
        assert [d.id for d in index.documents()] == [d.id for d in DOCUMENTS] + ["m0", "m1"]
        assert list(path.glob("*.tmp")) == []
        assert len(list(path.glob("latents-*"))) == index.info().shards == 4
        assert index.verify().ok
        assert index.add(Stream(more)) == AddReport(added=4, unchanged=2, chunks=4)


def test_a_full_disk_while_compacting_changes_nothing(path, monkeypatch):
    with LatentIndex.open(path) as index:
        index.delete(["d0"])
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full_disk)
            with pytest.raises(OpenClaraError, match="the disk is full"):
                index.compact()
        assert (index.info().shards, len(index)) == (3, 5)
        assert list(path.glob("*.tmp")) == []
        assert index.verify().ok


def test_a_full_database_is_a_full_disk(path):
    with LatentIndex.open(path) as index:
        with index._database.outside() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OpenClaraError, match="the disk is full"):
            index.add([compress(Document("big", "word " * 20_000), size=50_000)])
        assert len(index) == 6
    with LatentIndex.open(path) as index:
        assert index.verify().ok


def test_files_that_no_transaction_recorded_are_cleared_by_the_next_writer(path):
    shard(path, 99).write_bytes(b"orphan")
    (path / "latents-000100.safetensors.tmp").write_bytes(b"half")
    with LatentIndex.open(path) as index:
        assert index.verify().ok
        assert len(index.search(["q"], QUERY, k=50, mode="latent")[0]) == 12
        assert shard(path, 99).exists()
        index.delete(["nothing"])
        assert len(list(path.glob("latents-*"))) == 3


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user to become"
)
def test_a_read_only_folder_can_be_searched_and_says_that_it_cannot_be_written():
    code = """
import os, sys, torch
from openclara.errors import OpenClaraError
from openclara.index import LatentIndex
os.setgroups([]), os.setgid(65534), os.setuid(65534)
with LatentIndex.open(sys.argv[1]) as index:
    print(len(index.search(["number"], torch.ones(1, 4, 8), k=3)[0]), index.verify().ok)
    for change in (lambda: index.delete(["d0"]), index.compact, lambda: index.add([])):
        try:
            change()
        except OpenClaraError as error:
            print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with LatentIndex.open(Path(folder) / "i", SPEC) as index:
            index.add(map(compress, DOCUMENTS))
        done = subprocess.run(
            [sys.executable, "-c", code, f"{folder}/i"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "3 True"
    assert len(lines) == 4
    assert all("cannot be written: give yourself write permission" in line for line in lines[1:])
