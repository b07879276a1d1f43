"""Training and evaluation records: JSON Lines in any of the known forms, one value out."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from openclara.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


PASSAGE_LISTS = ("docs", "context", "content")
"""Fields in which the published forms keep their passages."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and what counts as its answer, the first being the one to learn."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A candidate document of a record."""

    text: str
    title: str = ""
    gold: bool = False

    @property
    def full_text(self) -> str:
        """What is compressed: the title on a line of its own, then the text."""
        return framed(self.title, self.text)


@dataclass(frozen=True, slots=True)
class Record:
    """Questions on documents, or a paraphrase of one document.

    Attributes:
        id: From the file, or `{file name}:{line}`.
        passages: Candidates; those that hold the answer are marked gold where the file says so.
        pairs: Questions with answers; empty for a paraphrase.
        paraphrase: Another wording of the only passage, or its own, to be repeated.
        source: Data set it came from, where the file says so.
    """

    id: str
    passages: tuple[Passage, ...]
    pairs: tuple[Pair, ...] = ()
    paraphrase: str | None = None
    source: str = ""


def framed(title: str, text: str) -> str:
    """A text under its title, as every passage is shown to the model."""
    return f"{title}\n{text}" if title else text


def open_text(path: Path) -> TextIO:
    """A text file, unpacked if its name ends in .gz.

    Raises:
        DataError: It is not there, or may not be read.
    """
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8")
        return path.open(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check the path in the recipe") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); give a file") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank."""
    number = 0
    with open_text(path) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}, after line {number}: cannot be read on ({error}); "
                "fetch the file again or save it as UTF-8"
            ) from None


def read_records(path: Path, *, passages_optional: bool = False) -> Iterator[Record]:
    """Records of a file, in order; blank lines are passed over.

    Forms: `{"id","question","answers","documents":[{"title","text","gold"}]}` (ours),
    `{"data_type","question":[..],"answers":[..],"docs":[one]}`,
    `{"question","docs":[..],"answer"|"gold_answer"|"golden_answers","pos_index"?}` (published),
    `{"text","paraphrase"}`, and `{"text","title"?}`: a plain passage, which is its own paraphrase.

    Args:
        path: JSON Lines, plain or .gz.
        passages_optional: Accept questions without any passage, as of an open corpus.

    Raises:
        DataError: Names file, line and field of the first record that fits none.
    """
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        raw = json_object(line, where)
        yield _parse(raw, where, f"{path.name}:{number}", passages_optional=passages_optional)


def json_object(line: str, where: str) -> dict[str, Any]:
    """The object on a line of JSON Lines.

    Raises:
        DataError: It holds none.
    """
    try:
        raw = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg}); mend or remove it") from None
    if not isinstance(raw, dict):
        raise DataError(f"{where}: expected an object, found {type(raw).__name__}")
    return raw


def _parse(raw: dict[str, Any], where: str, fallback_id: str, *, passages_optional: bool) -> Record:
    identity = str(raw.get("id", fallback_id))
    source = str(raw.get("source", ""))
    if "paraphrase" in raw:
        passage = Passage(_string(raw, "text", where))
        return Record(identity, (passage,), (), _string(raw, "paraphrase", where), source)
    if "text" in raw and "question" not in raw:
        passage = Passage(_string(raw, "text", where), str(raw.get("title") or ""))
        return Record(identity, (passage,), (), passage.text, source)
    named = any(name in raw for name in ("documents", *PASSAGE_LISTS))
    passages = _passages(raw, where) if named or not passages_optional else ()
    if raw.get("data_type") == "paraphrase":
        answers = _strings(raw, "answers", where)
        return Record(identity, passages[:1], (), answers[0], source)
    return Record(identity, passages, _pairs(raw, where), None, source)


def _passages(raw: dict[str, Any], where: str) -> tuple[Passage, ...]:
    if "documents" in raw:
        if not isinstance(raw["documents"], list) or not raw["documents"]:
            raise DataError(f"{where}: field `documents` must be a list of at least one object")
        for passage in raw["documents"]:
            if not isinstance(passage, dict):
                raise DataError(f"{where}: field `documents` must hold objects with a `text`")
        return tuple(
            Passage(_string(p, "text", where), str(p.get("title") or ""), bool(p.get("gold")))
            for p in raw["documents"]
        )
    field = next((name for name in PASSAGE_LISTS if name in raw), "docs")
    texts = _strings(raw, field, where)
    gold = raw.get("pos_index") or []
    if not isinstance(gold, list) or any(i not in range(len(texts)) for i in gold):
        raise DataError(f"{where}: field `pos_index` must hold positions in `{field}`")
    return tuple(Passage(text, gold=i in gold) for i, text in enumerate(texts))


def _pairs(raw: dict[str, Any], where: str) -> tuple[Pair, ...]:
    question = raw.get("question")
    if isinstance(question, list):
        questions, answers = _strings(raw, "question", where), _strings(raw, "answers", where)
        if len(questions) != len(answers):
            raise DataError(
                f"{where}: field `answers` has {len(answers)} items for {len(questions)} questions"
            )
        return tuple(Pair(q, (a,)) for q, a in zip(questions, answers, strict=True))
    names = ("answers", "answer", "golden_answers", "gold_answer")
    field = next((name for name in names if raw.get(name)), None)
    if field is None:
        raise DataError(f"{where}: no answer; give one of {', '.join(names)}")
    value = raw[field]
    known = (value,) if isinstance(value, str) else tuple(_strings(raw, field, where))
    return (Pair(_string(raw, "question", where), known),)


def _string(raw: dict[str, Any], field: str, where: str) -> str:
    value = raw.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field `{field}` must be a text that is not empty")
    return value


def _strings(raw: dict[str, Any], field: str, where: str) -> list[str]:
    value = raw.get(field)
    if not isinstance(value, list) or not value or any(not isinstance(item, str) for item in value):
        raise DataError(f"{where}: field `{field}` must be a list of at least one text")
    return value


def group_by_passage(records: Iterable[Record]) -> Iterator[Record]:
    """Join records on the same single passage, so that its pairs share one compression.

    Records with several passages, and paraphrases, come out as they are. Order is that of the
    first record on each passage; answers stay with their question.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        alone = len(record.passages) == 1 and record.paraphrase is None
        key = record.passages[0].full_text if alone else f"\0{len(groups)}"
        groups.setdefault(key, []).append(record)
    for group in groups.values():
        yield group[0] if len(group) == 1 else _joined(group)


def _joined(group: Sequence[Record]) -> Record:
    first = group[0]
    pairs = tuple(pair for record in group for pair in record.pairs)
    return Record(first.id, first.passages, pairs, None, first.source)
