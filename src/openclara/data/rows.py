"""Files of many documents: JSON Lines, JSON and tables, one document for each object or row."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from typing import IO, TYPE_CHECKING, Any, NoReturn

from openclara.data.sources import Found, SourceFile, decoded, numbered_lines, reason
from openclara.errors import DataError
from openclara.types import Document, MetadataValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

TEXT_FIELDS = ("text", "content", "contents", "body")
"""Names under which a record's text is looked for, the first of them that it has."""

_TEXT_NAMES = f"{', '.join(TEXT_FIELDS[:-1])} or {TEXT_FIELDS[-1]}"

ID_FIELDS = ("id", "_id")
"""Likewise for its id; public retrieval corpora write `_id`."""


def read_json_lines(stream: IO[bytes], file: SourceFile) -> Iterator[Found | DataError]:
    """Read one object a line; the file is never held as a whole."""
    yield from read_records(numbered_lines(decoded(stream, file.name)), file)


def read_json_lines_gz(stream: IO[bytes], file: SourceFile) -> Iterator[Found | DataError]:
    """Read one object a line of a compressed file."""
    with gzip.open(stream) as unpacked:
        yield from read_records(numbered_lines(decoded(unpacked, file.name)), file)


def read_records(lines: Iterable[tuple[int, str]], file: SourceFile) -> Iterator[Found | DataError]:
    """Read one object from each numbered line that is not blank."""
    empty = True
    for number, line in lines:
        if line.strip():
            empty = False
            try:
                yield found(_json(line, file, number), file, number)
            except DataError as error:
                yield error
    if empty:
        raise no_records(file)


def read_json(stream: IO[bytes], file: SourceFile) -> Iterator[Found | DataError]:
    """Read one object or an array of them."""
    text = "".join(decoded(stream, file.name))
    if not text.strip():
        raise DataError(f"{file.name} is empty; write records into it or leave it out")
    content = _json(text, file, 0)
    if not isinstance(content, list):
        yield found(content, file, 0)
        return
    if not content:
        raise no_records(file)
    for number, fields in enumerate(content, 1):
        try:
            yield found(fields, file, number)
        except DataError as error:
            yield error


def _listed(names: Sequence[str]) -> str:
    return (", ".join(names[:10]) or "none") + (", …" if len(names) > 10 else "")


def no_records(file: SourceFile) -> DataError:
    """The error of a file without one record."""
    return DataError(f"{file.name} holds no records; write some into it or leave it out")


def _json(text: str, file: SourceFile, number: int) -> object:
    try:
        # NaN and Infinity are not JSON, and neither JSON nor SQLite would keep them.
        content: object = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if number else f"line {error.lineno}, column {error.colno}"
        raise DataError(
            f"{file.at(number)} is not JSON ({error.msg} at {where}); correct it or leave it out"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file.at(number)} is not JSON ({reason(error)}); correct it or leave it out"
        ) from error
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def found(fields: object, file: SourceFile, number: int) -> Found:
    """The document of one record.

    Raises:
        DataError: It has no text, or a field of the wrong type.
    """
    place = file.at(number)
    if not isinstance(fields, dict):
        raise DataError(f'{place} is not a JSON object; write it as {{"text": "…"}}')
    text_field = next((name for name in TEXT_FIELDS if name in fields), None)
    if text_field is None:
        raise DataError(
            f"{place} has no text among its fields ({_listed(list(fields))}); "
            f"name one of them {_TEXT_NAMES}"
        )
    id_field = next((name for name in ID_FIELDS if name in fields), None)
    text = _string(fields, text_field, place)
    if not text.strip():
        raise DataError(f'{place} has no text in field "{text_field}"; fill it or leave it out')
    document = Document(
        id=_own_id(fields, id_field, place) or (f"{file.id}#{number}" if number else file.id),
        text=text,
        title=_string(fields, "title", place).strip(),
        source=_string(fields, "source", place) or file.name,
        metadata=_metadata(fields, {text_field, id_field, "title", "source", "metadata"}, place),
    )
    return Found(document, number)


def _tidy(text: str, place: str) -> str:
    """Normalise newlines in a string that escapes may have put anything into."""
    if "\0" in text:
        raise DataError(f"{place} holds a NUL character; remove it or leave the record out")
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place} holds half a surrogate pair at character {error.start}; "
            "write the whole character or leave the record out"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _string(fields: Mapping[str, object], field: str, place: str) -> str:
    value = fields.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f'{place}: field "{field}" must be a string, not {_kind(value)}; quote it')
    return _tidy(value, f'{place}: field "{field}"')


def _own_id(fields: Mapping[str, object], field: str | None, place: str) -> str:
    value = fields.get(field) if field else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f'{place}: field "{field}" must be a string or an integer; '
            "write one, or leave the field out"
        )
    return _tidy(value, f'{place}: field "{field}"')


def _metadata(
    fields: Mapping[str, object], reserved: set[str | None], place: str
) -> dict[str, MetadataValue]:
    """Collect the scalar fields, then those of `metadata`, which must all be scalars."""
    loose = {
        _tidy(name, f"{place}: a field name"): _scalar(value, name, place)
        for name, value in fields.items()
        if name not in reserved and not isinstance(value, dict | list)
    }
    given = fields.get("metadata")
    if given is None:
        return loose
    if not isinstance(given, dict):
        raise DataError(
            f'{place}: field "metadata" must be an object, not {_kind(given)}; '
            "write it as one, or under another name"
        )
    return loose | {
        _tidy(name, f"{place}: a field name"): _scalar(value, f"metadata.{name}", place)
        for name, value in given.items()
    }


def _scalar(value: object, field: str, place: str) -> MetadataValue:
    if isinstance(value, str):
        return _tidy(value, f'{place}: field "{field}"')
    if value is None or isinstance(value, bool):
        return value
    # What SQLite holds exactly: 64-bit integers and finite doubles.
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise DataError(
        f'{place}: field "{field}" must be a string, a finite number of 64 bits, true, false or '
        "null; write it as a string or leave it out"
    )


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return kinds.get(type(value), "a number")


# ---- tables ----

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+][0-9]+)")


def read_table(
    stream: IO[bytes], file: SourceFile, *, delimiter: str
) -> Iterator[Found | DataError]:
    """Read one document a row, under a header that names the columns."""
    # The limit, 128 KiB by default, belongs to the whole process and cannot be given to a reader;
    # 2**31 - 1 is the largest that every platform takes.
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
    lines = (f"{line}\n" for _, line in numbered_lines(decoded(stream, file.name)))
    # Not strict, a stray quote would swallow the rest of the file in silence.
    rows = _rows(csv.reader(lines, delimiter=delimiter, strict=True), file)
    _, header = next(rows, (0, []))
    if not header:
        raise DataError(f"{file.name} is empty; write a header and rows or leave it out")
    names = [name.strip() for name in header]
    text_field = _text_column(names, file)
    empty = True
    for number, row in rows:
        empty = False
        try:
            yield found(_row_fields(row, names, text_field, file.at(number)), file, number)
        except DataError as error:
            yield error
    if empty:
        raise no_records(file)


def _rows(reader: Any, file: SourceFile) -> Iterator[tuple[int, list[str]]]:
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{file.at(number)} is not a table row ({reason(error)}); put quotes around the "
                "field and double those inside it"
            ) from error
        if any(cell.strip() for cell in row):
            yield number, row


def _text_column(names: list[str], file: SourceFile) -> str:
    repeated = {name for name in names if name and names.count(name) > 1}
    if repeated:
        raise DataError(
            f'{file.at(1)} names the column "{min(repeated)}" twice; rename one of them'
        )
    column = next((name for name in TEXT_FIELDS if name in names), None)
    if column is None:
        raise DataError(
            f"{file.at(1)} has no text column among {_listed(names)}; "
            f"name one of them {_TEXT_NAMES} in the header"
        )
    return column


def _row_fields(row: list[str], names: list[str], text_field: str, place: str) -> object:
    if len(row) != len(names):
        raise DataError(
            f"{place} has {len(row)} cells where the header has {len(names)}; "
            "put quotes around a cell that holds the separator"
        )
    # A column without a name is the row number that data frames write.
    cells = {name: cell for name, cell in zip(names, row, strict=True) if name}
    known = {
        name: cells.pop(name) or None
        for name in (text_field, *ID_FIELDS, "title", "source")
        if name in cells
    }
    return known | {"metadata": {name: _cell(cell) for name, cell in cells.items()}}


def _cell(cell: str) -> MetadataValue:
    # "007" and "+49" are names made of digits, so only the plain form of a number is one.
    if _INTEGER.fullmatch(cell):
        return int(cell)
    if _FLOAT.fullmatch(cell) and math.isfinite(float(cell)):
        return float(cell)
    return cell or None
