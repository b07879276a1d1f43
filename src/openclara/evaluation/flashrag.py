"""The files of FlashRAG (Jin et al. 2024, arXiv:2405.13576): corpora in, predictions out.

Its questions, `{"id","question","golden_answers"}`, are read by `data.records`.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from openclara.data.records import json_object
from openclara.data.sources import decoded, numbered_lines
from openclara.errors import DataError
from openclara.types import Document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class FlashRagRow:
    """A question, what was answered, and from what.

    Attributes:
        id: Of the question.
        question: What was asked.
        golden_answers: All accepted answers.
        prediction: What was answered.
        retrieved: Documents in the order they were found; empty if none were looked for.
        scores: Metrics by name; FlashRAG calls its own `em`, `f1` and `acc`.
    """

    id: str
    question: str
    golden_answers: tuple[str, ...]
    prediction: str
    retrieved: tuple[Document, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


def corpus_documents(path: Path) -> Iterator[Document]:
    """Documents of a corpus, in order; blank lines are passed over.

    Forms: FlashRAG's `{"id","contents"}`, whose contents are the title on the first line and the
    text below it, or the text alone where that is a single line or a field `title` says otherwise;
    and ours, `{"id","title","text"}`. Other fields are left out, and so are the quotation marks
    that the Wikipedia corpora in FlashRAG's form put around their titles.

    Args:
        path: JSON Lines, plain or .gz.

    Raises:
        DataError: Names file, line and field of the first document that fits neither form.
    """
    with _opened(path) as stream:
        for number, line in numbered_lines(decoded(stream, str(path))):
            if line.strip():
                yield _document(line, f"{path}, line {number}", f"{path.name}:{number}")


def write_flashrag(path: Path, rows: Iterable[FlashRagRow]) -> None:
    """Write predictions as FlashRAG saves them in `intermediate_data.json`: one JSON array.

    The file is there when it is whole, never half.

    Args:
        path: Where to; a file that is there is replaced.
        rows: What was answered, in order.

    Raises:
        DataError: A score is not a finite number, or the file cannot be written.
    """
    items = [_item(row) for row in rows]
    try:
        text = json.dumps(items, indent=4, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise DataError(
            f"{path} would hold a score that is NaN or infinite; leave it out"
        ) from None
    temporary = path.with_name(f"{path.name}.partial")
    try:
        # Half a surrogate pair, which UTF-8 cannot hold, becomes the escape that JSON has for it.
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace", newline="\n")
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); name another") from None


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    try:
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check the path of the corpus") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); give a file") from None


def _document(line: str, where: str, fallback_id: str) -> Document:
    raw = json_object(line, where)
    identity = raw.get("id", fallback_id)
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise DataError(f"{where}: field `id` must be a text that is not empty, or a whole number")
    title = raw.get("title")
    if title is not None and not isinstance(title, str):
        raise DataError(f"{where}: field `title` must be a text")
    name = "contents" if "contents" in raw else "text"
    text = raw.get(name)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: field `{name}` must be a text that is not empty")
    if name == "text":
        return Document(str(identity), text, title or "")
    title = _unquoted((title or "").strip())
    first, _, below = text.partition("\n")
    first = _unquoted(first.strip())
    if below.strip() and (not title or title == first):
        return Document(str(identity), below, first)
    return Document(str(identity), text, title)


def _unquoted(title: str) -> str:
    """A title without the marks around it; one with marks inside stays, as they may be its own."""
    inner = title[1:-1]
    return inner if title == f'"{inner}"' and inner and '"' not in inner else title


def _item(row: FlashRagRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "question": row.question,
        "golden_answers": list(row.golden_answers),
        "output": {
            "retrieval_result": [_retrieved(document) for document in row.retrieved],
            "pred": row.prediction,
            "metric_score": {name: float(value) for name, value in row.scores.items()},
        },
    }


def _retrieved(document: Document) -> dict[str, str]:
    """A document in the form of the corpus; whoever reads it takes the first line for the title."""
    title = " ".join(document.title.split())
    return {"id": document.id, "contents": f"{title}\n{document.text}"}
