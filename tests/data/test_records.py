"""Records: every known form is read, every malformed one named by file, line and field."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclara.data.records import Pair, Passage, Record, framed, group_by_passage, read_records
from openclara.errors import DataError


@pytest.fixture
def written(tmp_path):
    def write(*lines, name="records.jsonl"):
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        text = "".join(f"{line}\n" for line in texts)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_evaluation_form(written):
    raw = {
        "id": "q1",
        "question": "Who?",
        "answers": ["Utzon", "Jørn Utzon"],
        "documents": [
            {"title": "Opera", "text": "By Utzon.", "gold": True},
            {"title": None, "text": "Else."},
        ],
        "source": "squad",
    }
    (record,) = read_records(written(raw))
    assert record == Record(
        id="q1",
        passages=(Passage("By Utzon.", "Opera", True), Passage("Else.", "", False)),
        pairs=(Pair("Who?", ("Utzon", "Jørn Utzon")),),
        source="squad",
    )
    assert record.passages[0].full_text == "Opera\nBy Utzon."
    assert record.passages[1].full_text == "Else."


def test_the_published_compress_form(written):
    qa = {"data_type": "qa", "question": ["a?", "b?"], "answers": ["A", "B"], "docs": ["text"]}
    paraphrase = {
        "data_type": "paraphrase",
        "question": ["Say it again."],
        "answers": ["other words"],
        "docs": ["text"],
    }
    first, second = read_records(written(qa, "", paraphrase))
    assert first.pairs == (Pair("a?", ("A",)), Pair("b?", ("B",)))
    assert first.passages == (Passage("text"),)
    assert first.id == "records.jsonl:1"
    assert (second.pairs, second.paraphrase) == ((), "other words")
    assert second.id == "records.jsonl:3"


@pytest.mark.parametrize("field", ["answer", "gold_answer", "golden_answers"])
def test_the_published_forms_with_several_documents(written, field):
    known = ["A", "alias"] if field == "golden_answers" else "A"
    raw = {"question": "q?", "docs": ["one", "two", "three"], field: known, "pos_index": [2, 0]}
    (record,) = read_records(written(raw))
    assert record.pairs == (Pair("q?", ("A", "alias") if field == "golden_answers" else ("A",)),)
    assert [passage.gold for passage in record.passages] == [True, False, True]


def test_the_plain_paraphrase_form(written):
    (record,) = read_records(written({"text": "a b", "paraphrase": "b a"}))
    assert (record.passages, record.paraphrase) == ((Passage("a b"),), "b a")


def test_a_packed_file_is_read_alike(written):
    raw = {"text": "a b", "paraphrase": "b a", "id": 7}
    assert list(read_records(written(raw, name="r.jsonl.gz"))) == list(read_records(written(raw)))


QA = {"question": "q?", "docs": ["one"], "answer": "A"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "not valid JSON"),
        ("[1]", "expected an object, found list"),
        ({k: v for k, v in QA.items() if k != "question"}, "`question` must be a text"),
        (QA | {"question": " "}, "`question` must be a text that is not empty"),
        (QA | {"question": 3}, "`question` must be a text"),
        (QA | {"question": [1]}, "`question` must be a list of at least one text"),
        ({k: v for k, v in QA.items() if k != "answer"}, "no answer; give one of answers, answer"),
        (QA | {"answer": [3]}, "`answer` must be a list of at least one text"),
        ({k: v for k, v in QA.items() if k != "docs"}, "`docs` must be a list of at least one"),
        (QA | {"docs": "one"}, "`docs` must be a list"),
        (QA | {"docs": []}, "`docs` must be a list of at least one text"),
        (QA | {"docs": [None]}, "`docs` must be a list of at least one text"),
        (QA | {"pos_index": [1]}, "`pos_index` must hold positions in `docs`"),
        (QA | {"pos_index": [-1]}, "`pos_index` must hold positions in `docs`"),
        (QA | {"pos_index": ["0"]}, "`pos_index` must hold positions in `docs`"),
        (QA | {"pos_index": 1}, "`pos_index` must hold positions in `docs`"),
        (QA | {"documents": []}, "`documents` must be a list of at least one object"),
        (QA | {"documents": ["one"]}, "`documents` must hold objects"),
        (QA | {"documents": [{"title": "t"}]}, "`text` must be a text that is not empty"),
        ({"question": ["a", "b"], "answers": ["A"], "docs": ["x"]}, "has 1 items for 2 questions"),
        ({"text": "a", "paraphrase": ""}, "`paraphrase` must be a text that is not empty"),
        ({"paraphrase": "b"}, "`text` must be a text that is not empty"),
    ],
)
def test_a_malformed_record_is_named(written, line, message):
    path = written(QA, line)
    with pytest.raises(DataError) as error:
        list(read_records(path))
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_comes_before_a_malformed_record_is_read(written):
    records = read_records(written(QA, "{"))
    assert next(records).pairs[0].question == "q?"
    with pytest.raises(DataError):
        next(records)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        list(read_records(tmp_path / "nothing.jsonl"))


@pytest.mark.parametrize("name", ["folder", "folder.gz"])
def test_a_folder_in_place_of_a_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        list(read_records(tmp_path / name))


def test_a_damaged_archive(tmp_path):
    lines = "".join(json.dumps(QA | {"id": str(i)}) + "\n" for i in range(5000))
    packed = gzip.compress(lines.encode())
    path = tmp_path / "r.jsonl.gz"
    for data in (packed[:-50], b"plain text", packed[:60] + b"\xff" * 60 + packed[120:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"r\.jsonl\.gz, after line \d+: cannot be read on"):
            list(read_records(path))


def test_a_file_in_another_encoding(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "é", "paraphrase": "b"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"after line 0: cannot be read on .* UTF-8"):
        list(read_records(path))


def test_an_empty_file_holds_nothing(written):
    assert list(read_records(written())) == []


# ---- grouping ----


def test_pairs_of_one_passage_are_joined_in_the_order_of_its_first():
    one, two = Passage("one"), Passage("two")
    records = [
        Record("a", (one,), (Pair("a?", ("A",)),)),
        Record("b", (two,), (Pair("b?", ("B",)),)),
        Record("c", (one,), (Pair("c?", ("C",)), Pair("d?", ("D",)))),
        Record("e", (one, two), (Pair("e?", ("E",)),)),
        Record("f", (one,), (), "paraphrase"),
        Record("g", (one, two), (Pair("g?", ("G",)),)),
        Record("h", (Passage("one", title="titled"),), (Pair("h?", ("H",)),)),
    ]
    grouped = list(group_by_passage(records))
    assert [record.id for record in grouped] == ["a", "b", "e", "f", "g", "h"]
    assert [pair.question for pair in grouped[0].pairs] == ["a?", "c?", "d?"]
    assert grouped[1:] == [records[1], *records[3:]]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99)), max_size=12))
def test_grouping_loses_and_invents_no_pair(drawn):
    records = [
        Record(str(i), (Passage(text),), (Pair(f"{text}{n}", (str(n),)),))
        for i, (text, n) in enumerate(drawn)
    ]
    grouped = list(group_by_passage(records))
    assert len(grouped) == len({text for text, _ in drawn})
    pairs = [(record.passages[0].text, pair) for record in grouped for pair in record.pairs]
    assert sorted(pairs, key=repr) == sorted(
        [(record.passages[0].text, record.pairs[0]) for record in records], key=repr
    )


def test_a_title_stands_on_its_own_line():
    assert framed("Title", "text") == "Title\ntext"
    assert framed("", "text") == "text"


def test_a_plain_passage_is_its_own_paraphrase(written):
    titled, bare = read_records(
        written({"title": "Opera", "text": "By Utzon.", "source": "wiki"}, {"text": "A river."})
    )
    assert titled == Record(
        "records.jsonl:1", (Passage("By Utzon.", "Opera"),), (), "By Utzon.", "wiki"
    )
    assert bare.passages == (Passage("A river."),)
    assert bare.paraphrase == "A river."
