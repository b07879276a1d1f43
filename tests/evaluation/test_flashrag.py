"""Corpora in FlashRAG's form and in ours, and predictions as FlashRAG saves them."""

from __future__ import annotations

import gzip
import json
import math

import pytest

from openclara.errors import DataError
from openclara.evaluation.flashrag import FlashRagRow, corpus_documents, write_flashrag
from openclara.types import Document

ROW = FlashRagRow(
    id="nq-1",
    question="Who designed the opera house?",
    golden_answers=("Jørn Utzon", "Utzon"),
    prediction="Utzon",
    retrieved=(Document("d1", "It was designed\nby Utzon.", "Opera house"), Document("d2", "Text")),
    scores={"em": 1.0, "f1": 1},
)


def written(folder, *lines, name="corpus.jsonl"):
    path = folder / name
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def read(folder, *lines, **options):
    return [(d.id, d.title, d.text) for d in corpus_documents(written(folder, *lines, **options))]


def test_both_forms_plain_and_packed(tmp_path):
    lines = [
        {"id": "0", "contents": "Opera house\nIt was designed\nby Utzon."},
        "",
        {"id": 1, "title": "River", "text": "It ends in the sea.", "year": 1973},
        {"id": "2", "text": "No title here."},
    ]
    expected = [
        ("0", "Opera house", "It was designed\nby Utzon."),
        ("1", "River", "It ends in the sea."),
        ("2", "", "No title here."),
    ]
    assert read(tmp_path, *lines) == expected
    assert read(tmp_path, *lines, name="corpus.jsonl.gz") == expected


@pytest.mark.parametrize(
    ("fields", "title", "text"),
    [
        ({"contents": "Only a text."}, "", "Only a text."),
        ({"contents": "Only a text.\n"}, "", "Only a text.\n"),
        ({"contents": "\nBelow an empty title."}, "", "Below an empty title."),
        ({"contents": '"Aaron"\nA prophet.'}, "Aaron", "A prophet."),
        ({"contents": '"A" and "B"\nText.'}, '"A" and "B"', "Text."),
        ({"contents": '""\nText.'}, '""', "Text."),
        ({"title": '"Aaron"', "contents": '"Aaron"\nA prophet.'}, "Aaron", "A prophet."),
        ({"title": "Aaron", "contents": "He.\nA brother."}, "Aaron", "He.\nA brother."),
        ({"title": "Aaron", "contents": "A prophet."}, "Aaron", "A prophet."),
        # Ours is taken as it stands: its titles are those of the records.
        ({"title": '"Heroes"', "text": "A song."}, '"Heroes"', "A song."),
        ({"title": None, "text": "First\nsecond"}, "", "First\nsecond"),
    ],
)  # fmt: skip
def test_where_the_title_ends(tmp_path, fields, title, text):
    assert read(tmp_path, {"id": "x", **fields}) == [("x", title, text)]


def test_a_document_without_id_is_named_by_its_place(tmp_path):
    assert read(tmp_path, "", {"text": "One"})[0][0] == "corpus.jsonl:2"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not valid JSON"),
        ([1], "expected an object, found list"),
        ({"id": "1"}, "field `text` must be"),
        ({"id": "1", "contents": "  "}, "field `contents` must be"),
        ({"id": "1", "contents": ["a"]}, "field `contents` must be"),
        ({"id": "", "text": "a"}, "field `id` must be"),
        ({"id": True, "text": "a"}, "field `id` must be"),
        ({"id": "1", "title": 3, "text": "a"}, "field `title` must be"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path, line, says):
    path = written(tmp_path, {"id": "0", "text": "fine"}, line)
    documents = corpus_documents(path)
    assert next(documents).id == "0"
    with pytest.raises(DataError) as caught:
        next(documents)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert says in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        list(corpus_documents(tmp_path / "absent.jsonl.gz"))
    with pytest.raises(DataError, match="cannot be opened"):
        list(corpus_documents(tmp_path))
    damaged = written(tmp_path, {"id": "0", "text": "fine " * 999}, name="damaged.jsonl.gz")
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged gzip"):
        list(corpus_documents(damaged))


def test_what_is_written(tmp_path):
    path = tmp_path / "intermediate_data.json"
    path.write_text("earlier")
    write_flashrag(path, iter([ROW]))
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {
            "id": "nq-1",
            "question": "Who designed the opera house?",
            "golden_answers": ["Jørn Utzon", "Utzon"],
            "output": {
                "retrieval_result": [
                    {"id": "d1", "contents": "Opera house\nIt was designed\nby Utzon."},
                    {"id": "d2", "contents": "\nText"},
                ],
                "pred": "Utzon",
                "metric_score": {"em": 1.0, "f1": 1.0},
            },
        }
    ]
    assert "Jørn" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_documents_come_back_as_they_went_out(tmp_path):
    documents = (*ROW.retrieved, Document("d3", "a\n\nb \ud800 c", "Two\nlines"))
    path = tmp_path / "out.json"
    write_flashrag(path, [FlashRagRow("1", "q", (), "", documents)])
    (item,) = json.loads(path.read_text(encoding="utf-8"))
    back = read(tmp_path, *item["output"]["retrieval_result"])
    assert back == [(d.id, d.title.replace("\n", " "), d.text) for d in documents]


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("earlier")
    with pytest.raises(DataError, match="NaN or infinite"):
        write_flashrag(path, [FlashRagRow("1", "q", (), "", scores={"f1": math.nan})])
    assert path.read_text() == "earlier"
    with pytest.raises(DataError, match="cannot be written"):
        write_flashrag(tmp_path / "absent" / "out.json", [ROW])
