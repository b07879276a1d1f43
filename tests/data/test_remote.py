"""Documents at addresses and in Parquet files are those that JSON Lines on this machine give."""

from __future__ import annotations

import json

import pytest

from openclara.data.reading import count_files, read_documents
from openclara.errors import DataError

fsspec = pytest.importorskip("fsspec")
ROWS = [
    {"id": "a", "text": "The river is long.", "title": "River", "year": 1},
    {"id": "b", "text": "The train left.", "title": None, "year": None},
]


@pytest.fixture
def bucket():
    """A store of objects in this process, emptied afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_store_is_read_as_a_folder_is(bucket, tmp_path):
    for name, content in (
        ("docs/b/rows.jsonl", lines()),
        ("docs/a.txt", b"The opera house."),
        ("docs/.hidden.txt", b"no"),
        ("docs/picture.png", b"no"),
    ):
        bucket.pipe_file(f"/{name}", content)
    found = list(read_documents("memory://docs"))
    assert [one.id for one in found] == ["memory:///docs/a.txt", "a", "b"]
    assert found[0].title == "a"
    assert found[1].metadata == {"year": 1}
    assert count_files("memory://docs") == 2
    assert [one.id for one in read_documents("memory://docs/b/*.jsonl")] == ["a", "b"]
    assert [one.id for one in read_documents("memory://docs/b/rows.jsonl")] == ["a", "b"]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("memory://nothing", "there is nothing at memory://nothing"),
        ("memory://docs/*.pdf", "holds no file to read"),
        ("nosuch://docs", "nosuch://docs cannot be read"),
        ("s3://bucket/file.txt", "s3:// needs a package|cannot be looked up"),
    ],
)
def test_an_address_that_leads_nowhere_is_a_sentence(bucket, address, sentence):
    bucket.pipe_file("/docs/a.txt", b"The opera house.")
    with pytest.raises(DataError, match=sentence):
        list(read_documents(address))


def test_parquet_gives_the_documents_of_json_lines(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=1)
    filled = [{k: v for k, v in row.items() if v is not None} for row in ROWS]
    (tmp_path / "rows.jsonl").write_bytes(lines(filled))

    def read(name):
        return [(d.id, d.text, d.title, d.metadata) for d in read_documents(tmp_path / name)]

    assert read("rows.parquet") == read("rows.jsonl")


def test_a_wrong_row_or_file_of_parquet_is_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"text": "x"}, {"text": None}]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 2 has no text"):
        list(read_documents(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as Parquet"):
        list(read_documents(tmp_path / "b.parquet"))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="holds no records"):
        list(read_documents(tmp_path / "c.parquet"))
