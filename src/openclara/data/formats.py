"""The file formats that documents come in, one reader each.

What cannot be read is yielded as a `DataError` among what can, so that one bad record need not end
the file and one place decides whether to stop.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import re
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from openclara.data.remote import opened
from openclara.data.rows import (
    read_json,
    read_json_lines,
    read_json_lines_gz,
    read_records,
    read_table,
)
from openclara.data.sources import Found, SourceFile, decoded, numbered_lines, reason
from openclara.data.tables import read_parquet
from openclara.errors import DataError
from openclara.types import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


def read_file(file: SourceFile) -> Iterator[Found | DataError]:
    """Read the documents of one file.

    Args:
        file: The file; an unknown suffix is read as UTF-8 text.

    Yields:
        Documents, and an error in the place of each that cannot be read. An error that concerns
        the whole file is the last item.
    """
    try:
        with _opened(file) as stream:
            yield from _READERS.get(file.suffix, _read_text)(stream, file)
    except DataError as error:
        yield error
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        yield DataError(f"{file.name} cannot be read: {why}; make it readable or leave it out")


def _opened(file: SourceFile) -> AbstractContextManager[IO[bytes]]:
    if file.address:
        return opened(file)
    if file.path is None:
        return nullcontext(sys.stdin.buffer)
    return file.path.open("rb")


def _whole(text: str, file: SourceFile, title: str, *, remedy: str) -> Iterator[Found]:
    if not text.strip():
        raise DataError(f"{file.name} holds no text; {remedy}")
    yield Found(Document(file.id, text, title or file.stem, file.name))


# ---- text and markup ----

_FENCE = re.compile(r"[ ]{0,3}(?:```|~~~)")
_HEADING = re.compile(r"[ ]{0,3}#{1,6}[ \t]+([^#\s].*)")
_UNDERLINED = re.compile(r"""^[ \t]*(\S.*)\n(?:={2,}|-{2,}|~{2,}|"{2,}|\*{2,})[ \t]*$""", re.M)


def _read_text(stream: IO[bytes], file: SourceFile) -> Iterator[Found | DataError]:
    if file.is_stdin:
        yield from _read_stdin(stream, file)
        return
    text = "".join(decoded(stream, file.name))
    if not text:
        raise DataError(f"{file.name} is empty; write text into it or leave it out")
    title = _heading(text) if file.suffix in _HEADED else ""
    if file.suffix == ".rst" and (underlined := _UNDERLINED.search(text)):
        title = underlined[1].strip()
    yield from _whole(text, file, title, remedy="write text into it or leave it out")


_HEADED = (".md", ".markdown", ".txt", ".text")


def _heading(text: str) -> str:
    fenced = False
    previous = ""
    for line in io.StringIO(text):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and (heading := _HEADING.match(line)):
            return heading[1].rstrip().rstrip("#").rstrip()
        elif not fenced and previous.strip() and re.fullmatch(r"={2,}\s*", line):
            return previous.strip()
        previous = line
    return ""


def _read_stdin(stream: IO[bytes], file: SourceFile) -> Iterator[Found | DataError]:
    lines = numbered_lines(decoded(stream, file.name))
    blank = []
    for number, line in lines:
        if not line.strip():
            blank.append(line)
            continue
        if _is_json_object(line):
            yield from read_records(itertools.chain([(number, line)], lines), file)
        else:
            text = "\n".join(itertools.chain(blank, [line], (line for _, line in lines)))
            yield Found(Document(file.id, text, source=file.name))
        return
    raise DataError(f"{file.name} is empty; pipe a text or JSON Lines into it")


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


# Marks between the strings of a page; NUL keeps them apart from what it says.
_PARAGRAPH, _LINE, _VERBATIM = "\0p", "\0l", "\0v"
_DROPPED = ("title", "script", "style", "nav", "noscript", "template")
_PARAGRAPHS = (
    *("address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt"),
    *("fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6"),
    *("header", "hr", "main", "ol", "p", "pre", "section", "summary", "table", "ul"),
)
_LINES = ("li", "tr", "br", "option")
_CELLS = ("td", "th")
_OPENING = dict.fromkeys(_PARAGRAPHS, _PARAGRAPH) | dict.fromkeys(_LINES, _LINE)
_OPENING["pre"] = _PARAGRAPH + _VERBATIM
_CLOSING = dict.fromkeys(_PARAGRAPHS, _PARAGRAPH) | {"pre": _VERBATIM + _PARAGRAPH}
_HTML_SPACES = re.compile(r"[ \t\n\f\r]+")
_LINE_BREAKS = re.compile(rf" ?(?:{_LINE} ?)+")


def _read_html(stream: IO[bytes], file: SourceFile) -> Iterator[Found]:
    try:
        from bs4 import BeautifulSoup
        from bs4.builder import ParserRejectedMarkup
    except ImportError as error:
        raise _needs(file, "beautifulsoup4") from error
    markup = _markup(_content(stream, file), file.name)
    try:
        with warnings.catch_warnings():
            # It warns of XHTML, and of markup so short that it might be a file name.
            warnings.simplefilter("ignore")
            # Always the builder of the standard library: lxml, where it happens to be installed,
            # would give the same file another text.
            soup = BeautifulSoup(markup, "html.parser")
    except ParserRejectedMarkup as error:
        raise _damaged(file, "HTML", error) from error
    heading = soup.title or soup.h1
    title = " ".join(heading.get_text().split()) if heading else ""
    yield from _whole(_layout(soup), file, title, remedy="leave it out")


def _markup(data: bytes, name: str) -> str:
    from bs4.dammit import EncodingDetector

    try:
        return "".join(decoded(io.BytesIO(data), name))
    except DataError:
        declared = EncodingDetector.find_declared_encoding(data, is_html=True)
        # A page with NUL bytes is not in any encoding that a page can declare by itself.
        if not declared or b"\0" in data:
            raise
        text = _in_encoding(data, declared)
        if text is None:
            raise
        return text


def _in_encoding(data: bytes, declared: str) -> str | None:
    try:
        encoding = codecs.lookup(declared).name
        # It is not UTF-8, and read as UTF-16 or UTF-7 nearly anything would pass.
        if encoding.startswith("utf"):
            return None
        # WHATWG Encoding Standard: these two names mean windows-1252 on the web.
        text = data.decode("cp1252" if encoding in ("iso8859-1", "ascii") else encoding)
    except (LookupError, UnicodeDecodeError):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _layout(soup: Any) -> str:
    """The text of a page: blocks as paragraphs, rows and items as lines."""
    parts = "".join(_marked(soup)).split(_VERBATIM)
    parts[::2] = [_LINE_BREAKS.sub("\n", _HTML_SPACES.sub(" ", part)) for part in parts[::2]]
    paragraphs = (paragraph.strip() for paragraph in "".join(parts).split(_PARAGRAPH))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _marked(soup: Any) -> Iterator[str]:
    # One walk with its own stack: the tree's methods for inserting and removing take time in
    # proportion to its size, each call, and tags that are never closed nest without limit.
    from bs4.element import CData, NavigableString, Tag

    open_tags: list[Any] = []
    rows_with_cells: set[int] = set()
    n_dropped = 0
    for node in soup.descendants:
        while open_tags and node.parent is not open_tags[-1]:
            name = open_tags.pop().name
            n_dropped -= name in _DROPPED
            yield _CLOSING.get(name, "")
        if isinstance(node, Tag):
            open_tags.append(node)
            n_dropped += node.name in _DROPPED
            yield _OPENING.get(node.name, "")
            if node.name in _CELLS:
                # This builder nests a cell in the one before it where that is not closed.
                row: Any = node.parent
                if id(row) in rows_with_cells or row.name in _CELLS:
                    yield " | "
                rows_with_cells.add(id(row))
        # Comments and the like are strings of other classes.
        elif not n_dropped and type(node) in (NavigableString, CData):
            yield str(node)


# ---- PDF and Word ----


def _read_pdf(stream: IO[bytes], file: SourceFile) -> Iterator[Found]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, FileNotDecryptedError
    except ImportError as error:
        raise _needs(file, "pypdf") from error
    data = _content(stream, file)
    try:
        reader = PdfReader(io.BytesIO(data))
        pages = [page.extract_text() for page in reader.pages]
        title = str((reader.metadata and reader.metadata.title) or "")
    except (FileNotDecryptedError, DependencyError) as error:
        raise DataError(
            f"{file.name} is an encrypted PDF; save a copy without a password and read that"
        ) from error
    except Exception as error:  # pypdf raises whatever the damage makes it stumble over
        raise _damaged(file, "PDF", error) from error
    # Fonts without a character map give NUL and half pairs; nobody can mend them in a PDF.
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    remedy = "if it is a scan, run text recognition on it, otherwise leave it out"
    yield from _whole(text, file, title.strip(), remedy=remedy)


def _read_docx(stream: IO[bytes], file: SourceFile) -> Iterator[Found]:
    try:
        import docx
    except ImportError as error:
        raise _needs(file, "python-docx") from error
    data = _content(stream, file)
    try:
        word = docx.Document(io.BytesIO(data))
        text = "\n\n".join(block for block in _docx_blocks(word) if block.strip())
        title = word.core_properties.title
    except Exception as error:  # python-docx raises whatever the damage makes it stumble over
        raise _damaged(file, "Word .docx", error) from error
    yield from _whole(text, file, title.strip(), remedy="write text into it or leave it out")


def _docx_blocks(word: Any) -> Iterator[str]:
    from docx.table import Table

    for block in word.iter_inner_content():
        if not isinstance(block, Table):
            yield block.text
            continue
        # A merged cell is listed once for each column it spans.
        rows = (itertools.groupby(row.cells, key=lambda cell: cell._tc) for row in block.rows)
        cells = ((" ".join(next(same).text.split()) for _, same in row) for row in rows)
        yield "\n".join(" | ".join(row) for row in cells)


def _content(stream: IO[bytes], file: SourceFile) -> bytes:
    data = stream.read()
    if not data:
        raise DataError(f"{file.name} is empty; copy it again or leave it out")
    return data


def _needs(file: SourceFile, library: str) -> DataError:
    return DataError(f"{file.name} needs {library}; run pip install 'openclara[documents]'")


def _damaged(file: SourceFile, kind: str, error: Exception) -> DataError:
    return DataError(
        f"{file.name} cannot be read as {kind} ({reason(error)}); "
        "open it in its own program and save it again, without a password, or leave it out"
    )


# ---- which reader for which suffix ----

_READERS: dict[str, Callable[[IO[bytes], SourceFile], Iterator[Found | DataError]]] = {
    ".txt": _read_text,
    ".text": _read_text,
    ".md": _read_text,
    ".markdown": _read_text,
    ".rst": _read_text,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".jsonl.gz": read_json_lines_gz,
    ".ndjson.gz": read_json_lines_gz,
    ".json": read_json,
    ".csv": partial(read_table, delimiter=","),
    ".tsv": partial(read_table, delimiter="\t"),
    ".parquet": read_parquet,
}

SUFFIXES = tuple(_READERS)
"""What is read from a folder."""
