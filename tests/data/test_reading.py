from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import bs4
import docx
import pypdf
import pytest

from openclara.data.reading import count_files, read_documents
from openclara.errors import DataError
from openclara.types import Document


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, content: str | bytes) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(source, **options) -> list[Document]:
    return list(read_documents(source, **options))


def only(source) -> Document:
    (document,) = read(source)
    return document


def error_of(source) -> str:
    """The sentence with which reading stops, which is also what a callback is given."""
    with pytest.raises(DataError) as raised:
        read(source)
    told: list[DataError] = []
    read(source, on_unreadable=told.append)
    message = str(raised.value)
    assert message in map(str, told)
    assert "\n" not in message
    return message


def pdf_bytes(*lines: str, title: str = "") -> bytes:
    """A PDF of one page, with its table of byte offsets."""
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) >>",
    ]
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R /Info 6 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    return f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


# ---- finding files ----


def test_a_folder_is_read_sorted_with_subfolders_and_without_what_is_hidden_or_unknown(here):
    for name in ["b.txt", "a.md", "sub/c.rst", "sub.txt", ".hidden.txt", ".git/x.txt", "x.png"]:
        write(f"docs/{name}", "text")

    documents = read("docs")

    assert [d.id for d in documents] == ["a.md", "b.txt", "sub.txt", "sub/c.rst"]
    assert [d.source for d in documents][3] == str(Path("docs/sub/c.rst"))
    assert all(d.metadata == {} for d in documents)
    assert read("docs/") == read(Path("docs")) == documents


def test_ids_are_the_path_as_given_for_a_file(here):
    write("docs/a.txt", "text")

    assert only("docs/a.txt").id == only("./docs//a.txt").id == "docs/a.txt"
    assert only(here / "docs/a.txt").id == (here / "docs/a.txt").as_posix()


def test_a_pattern_stands_for_the_files_it_matches(here):
    for name in ["a.md", "deep/er/b.md", "c.txt", ".d.md", "e.log", "f.png"]:
        write(f"docs/{name}", "text")

    assert [d.id for d in read("docs/**/*.md")] == ["docs/a.md", "docs/deep/er/b.md"]
    assert [d.id for d in read(f"{here}/docs/*.log")] == [f"{here.as_posix()}/docs/e.log"]
    assert [d.id for d in read("docs/*")] == ["docs/a.md", "docs/c.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here):
    write("notes [1].txt", "text")

    assert only("notes [1].txt").id == "notes [1].txt"


def test_a_file_that_several_names_lead_to_is_read_once(here):
    write("docs/a.txt", "text")
    write("docs/b.txt", "text")

    assert [d.id for d in read(["docs/b.txt", "docs", "./docs/*.txt"])] == ["docs/b.txt", "a.txt"]


def test_linked_folders_are_read_and_loops_end(here):
    write("elsewhere/a.txt", "text")
    write("docs/b.txt", "text")
    Path("docs/linked").symlink_to(here / "elsewhere")
    # Two of them: the system ends a single loop, after forty turns.
    Path("docs/loop").symlink_to(here / "docs")
    Path("docs/again").symlink_to(here / "docs")

    assert [d.id for d in read("docs")] == ["b.txt", "linked/a.txt"]


def test_an_index_among_the_documents_is_left_out(here):
    from openclara.index import LatentIndex
    from openclara.types import LatentSpec

    write("a.txt", "text")
    write("sub/index.json", '{"text": "not an index, for want of a database"}')
    write("other/index.json", '{"text": "another program\'s"}')
    write("other/documents.sqlite", b"SQLite format 3\0")
    for path in ("my.index", "sub/deep/my.index"):
        LatentIndex.open(path, LatentSpec("m", "f", 4, 8, 32)).close()
    Path("linked").symlink_to(here / "my.index")

    ids = ["a.txt", "other/index.json", "sub/index.json"]
    assert [d.id for d in read(".")] == ids
    assert [d.id for d in read("**/*")] == ids
    assert [d.id for d in read("**/*.json")] == ids[1:]
    assert count_files(".") == 3
    assert "my.index is an openclara index; name the folder" in error_of("my.index")


def test_names_are_looked_up_before_anything_is_read(here):
    write("a.txt", "text")

    with pytest.raises(DataError, match="missing"):
        next(read_documents(["a.txt", "missing.txt"]))


def test_counting_opens_nothing(here, monkeypatch):
    write("docs/a.txt", b"\xff\xff")
    write("docs/b.jsonl", "")
    write("c.csv", "")
    monkeypatch.setattr(Path, "open", pytest.fail)

    assert count_files("docs") == 2
    assert count_files(["docs", "c.csv", "missing", "docs/*.txt"]) == 3
    assert count_files(["docs", "-"]) is None


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("missing.txt", ["missing.txt does not exist", "check the path"]),
        ("docs/*.nothing", ["docs/*.nothing matches no files", "check the pattern"]),
        ("docs/**/*", ["docs/**/*", ".pdf", "check the pattern"]),
        ("docs", ["docs holds no file", ".txt", ".jsonl.gz", ".docx", "put files there"]),
        ([], ["no source was named", "give files"]),
        ("", ["empty name", "give a file"]),
        ("x" * 5000, ["xxx", "(5000 characters)", "name too long", "check the path"]),
    ],
)
def test_names_that_lead_nowhere(here, source, parts):
    write("docs/x.png", "not read")

    message = error_of(source)

    assert len(message) < 400
    for part in parts:
        assert part in message


# ---- text ----


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        ("a.md", "intro\n\n## The *first* one ##\n# Second", "The *first* one"),
        ("a.md", "```sh\n# comment\n```\n\nTitle\n=====\nx", "Title"),
        ("plan b.markdown", "no heading, #tag", "plan b"),
        ("a.txt", "# Heading\nx", "Heading"),
        ("a.TEXT", "x", "a"),
        ("a.rst", "=====\nTitle\n=====\n\nx", "Title"),
        ("a.rst", "# not a heading\n", "a"),
        ("script.sh", "# a comment\n", "script"),
    ],
)
def test_title_of_a_text(here, name, text, title):
    assert only(write(name, text)) == Document(name, text, title, name)


@pytest.mark.parametrize(
    "encoded",
    [
        "Zoë\n🚀\n".encode(),
        "Zoë\r\n🚀\r".encode("utf-8-sig"),
        "Zoë\r🚀\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "Zoë\r\n🚀\n".encode("utf-16-be"),
    ],
)
def test_encodings(here, encoded):
    assert only(write("a.txt", encoded)).text == "Zoë\n🚀\n"


def test_characters_are_kept_as_they_are(here):
    assert (
        only(write("a.txt", "e\u0301 \u2028 \u00a0\n  x  ")).text == "e\u0301 \u2028 \u00a0\n  x  "
    )


def test_characters_and_newlines_across_block_ends(here):
    text = ("é" * 101 + "\r\n") * 20_000
    assert len(text.encode()) > 3 << 20

    assert only(write("a.txt", text)).text == text.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("content", "byte"),
    [
        (b"caf\xe9 au lait", 3),
        (codecs.BOM_UTF8 + b"caf\xe9 au lait", 6),
        (b"a" * (1 << 20) + b"caf\xe9 au lait", (1 << 20) + 3),
        ("é".encode() * (1 << 19) + b"x\xe9", (1 << 20) + 1),
        (codecs.BOM_UTF16_LE + b"a\0\0\xdc", 4),
    ],
)
def test_a_mis_encoded_file_is_refused_with_the_place(here, content, byte):
    message = error_of(write("a.txt", content))

    encoding = "UTF-16" if b"\0" in content else "UTF-8"
    assert f"a.txt is not {encoding} at byte {byte};" in message
    assert "convert it to UTF-8" in message
    assert "iconv" in message


@pytest.mark.parametrize("name", ["a.txt", "a.dat", "a.jsonl", "a.csv", "a.html"])
@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\0\0\xff", "hi".encode("utf-16-le"), b'<meta charset="latin-1">\0\xe9'],
)
def test_binary_content_is_refused(here, name, content):
    message = error_of(write(name, content))

    assert f"{name} holds NUL" in message
    assert "convert it to UTF-8 text or leave it out" in message


@pytest.mark.parametrize("suffix", ["txt", "md", "html", "pdf", "docx", "json", "jsonl", "csv"])
def test_an_empty_file_is_refused(here, suffix):
    message = error_of(write(f"a.{suffix}", ""))

    assert f"a.{suffix}" in message
    assert "is empty" in message or "holds no records" in message
    assert "leave it out" in message


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_a_blank_file_is_refused(here, name):
    assert f"{name} holds no text; write text into it" in error_of(write(name, " \n\t"))


def test_a_file_without_permission(here, monkeypatch):
    write("docs/a.txt", "text")
    write("docs/b.txt", "text")
    really_open = Path.open

    def refuse(path, *arguments, **options):
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)

    message = error_of("docs")
    assert message == (
        f"{Path('docs/a.txt')} cannot be read: permission denied; make it readable or leave it out"
    )
    assert [d.id for d in read("docs", on_unreadable=lambda error: None)] == ["b.txt"]


def test_a_folder_without_permission(here, monkeypatch):
    write("docs/a.txt", "text")
    write("docs/locked/b.txt", "text")
    really_scan = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return really_scan(path)

    monkeypatch.setattr(os, "scandir", refuse)

    message = error_of("docs")
    assert f"{Path('docs/locked')} cannot be listed: permission denied; change" in message
    assert [d.id for d in read("docs", on_unreadable=lambda error: None)] == ["a.txt"]


# ---- markup and office files ----


def test_html(here):
    write(
        "a.html",
        """<!doctype html><html><head><title> The
        page </title><style>p {}</style></head><body><nav>menu</nav><h1>Head</h1>
        <p>One <b>bold</b>&nbsp;word<br>next &amp; last.<p>Unclosed<script>evil()</script>
        <ul><li>first</li><li>second</ul>
        <table><tr><th>a<th>b<tr><td>1</td><td>2</td></table>
        <pre>x =  1
  y</pre><!-- no --></body></html>""",
    )

    document = only("a.html")

    assert document.title == "The page"
    assert document.text.split("\n\n") == [
        "Head",
        "One bold\u00a0word\nnext & last.",
        "Unclosed",
        "first\nsecond",
        "a | b\n1 | 2",
        "x =  1\n  y",
    ]


@pytest.mark.parametrize(
    ("content", "title", "text"),
    [
        ("<h1>Head</h1>x", "Head", "Head\n\nx"),
        ("index.html", "a", "index.html"),
        ('<?xml version="1.0"?><html><body><p>x</p></body></html>', "a", "x"),
        ("<div>" * 20_000 + "deep", "a", "deep"),
        ("<ul>" + "<li>x" * 20_000, "a", "\n".join("x" * 20_000)),
        ("<table><tr>" + "<td>x</td>" * 20_000, "a", " | ".join("x" * 20_000)),
        ("<nav>menu<p>menu</p></nav>x<svg><title>icon</title></svg>y", "icon", "xy"),
        ("<head><title>T</title><p>no end of head", "T", "no end of head"),
        (b'<meta charset="iso-8859-1"><p>caf\xe9 \x80', "a", "café €"),
        (b'<meta charset="shift_jis"><p>' + "今日".encode("shift_jis"), "a", "今日"),
        ("<p>Zoë</p>".encode("utf-16"), "a", "Zoë"),
    ],
)
def test_html_in_the_wild(here, content, title, text):
    document = only(write("a.htm", content))

    assert (document.title, document.text) == (title, text)


@pytest.mark.parametrize("charset", [b"", b"utf-8", b"utf-16", b"unheard-of", b"euc-jp"])
def test_html_that_is_not_in_the_encoding_it_declares(here, charset):
    message = error_of(write("a.html", b'<meta charset="' + charset + b'"><p>caf\xe9</p> x'))

    assert "a.html is not UTF-8 at byte" in message
    assert "convert it to UTF-8" in message


@pytest.mark.parametrize("content", ["<p> </p>", "<script>x</script>"])
def test_html_without_text(here, content):
    assert error_of(write("a.html", content)) == "a.html holds no text; leave it out"


def test_damaged_html(here, monkeypatch):
    def reject(*arguments):
        raise bs4.builder.ParserRejectedMarkup("expected name token")

    # What html.parser rejects differs between versions of Python.
    monkeypatch.setattr(bs4, "BeautifulSoup", reject)

    message = error_of(write("a.html", "<p>x</p><![%x"))

    assert "a.html cannot be read as HTML" in message
    assert "save it again" in message


def test_pdf(here):
    document = only(
        write("docs/a.pdf", pdf_bytes("Hello there.", "Second line.", title="Greeting"))
    )

    assert document == Document(
        "docs/a.pdf", "Hello there.\nSecond line.", "Greeting", str(Path("docs/a.pdf"))
    )
    assert only(write("b.pdf", pdf_bytes("x"))).title == "b"


def test_pdf_without_text(here):
    message = error_of(write("a.pdf", pdf_bytes()))

    assert "a.pdf holds no text; if it is a scan, run text recognition" in message


@pytest.mark.parametrize("password", ["secret", ""])
def test_encrypted_pdf(here, password):
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf_bytes("Hello")))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    writer.write("a.pdf")

    if password:
        message = error_of("a.pdf")
        assert "a.pdf is an encrypted PDF" in message
        assert "without a password" in message
    else:
        assert only("a.pdf").text == "Hello"


def test_docx(here):
    word = docx.Document()
    word.core_properties.title = "The plan"
    word.add_heading("Head", 1)
    word.add_paragraph("One.")
    table = word.add_table(2, 2)
    for at, cell in enumerate("abcd"):
        table.cell(at // 2, at % 2).text = cell
    table.cell(1, 0).merge(table.cell(1, 1))
    word.add_paragraph("Last.")
    word.save("a.docx")

    assert only("a.docx") == Document(
        "a.docx", "Head\n\nOne.\n\na | b\nc d\n\nLast.", "The plan", "a.docx"
    )


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.pdf", b"no such thing", "PDF"),
        ("a.pdf", pdf_bytes("Hello")[:80], "PDF"),
        ("a.docx", b"no such thing", "Word .docx"),
        ("a.docx", b"PK\x03\x04" + b"\0" * 50, "Word .docx"),
    ],
)
def test_damaged_files(here, name, content, kind):
    message = error_of(write(name, content))

    assert f"{name} cannot be read as {kind} (" in message
    assert "save it again" in message


@pytest.mark.parametrize(
    ("name", "module", "library"),
    [
        ("a.pdf", "pypdf", "pypdf"),
        ("a.docx", "docx", "python-docx"),
        ("a.html", "bs4", "beautifulsoup4"),
    ],
)
def test_a_library_that_is_not_installed(here, monkeypatch, name, module, library):
    write(name, "x")
    monkeypatch.setitem(sys.modules, module, None)

    assert error_of(name) == f"{name} needs {library}; run pip install 'openclara[documents]'"


# ---- records ----


def test_json_lines(here):
    write(
        "docs/a.jsonl",
        '{"id": "one", "text": "First\\r\\nline", "title": " T ", "source": "web", "year": 1999}\n'
        "\n"
        '{"contents": "Second \u2028 still", "tags": ["a"], "ok": true, "none": null}\r\n'
        '{"_id": 7, "body": "Third", "metadata": {"year": 2.5, "who": "me"}, "who": "you"}',
    )

    assert read("docs") == [
        Document("one", "First\nline", "T", "web", {"year": 1999}),
        Document(
            "a.jsonl#3", "Second \u2028 still", "", "docs/a.jsonl", {"ok": True, "none": None}
        ),
        Document("7", "Third", "", "docs/a.jsonl", {"year": 2.5, "who": "me"}),
    ]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.NDJSON.GZ"])
def test_compressed_json_lines(here, name):
    write(name, gzip.compress(b'{"text": "x"}\n{"text": "y"}\n'))

    assert [(d.id, d.text) for d in read(".")] == [(f"{name}#1", "x"), (f"{name}#2", "y")]


CUT_OFF = gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:-9]


@pytest.mark.parametrize("content", [b"no such thing", CUT_OFF])
def test_damaged_compressed_file(here, content):
    message = error_of(write("a.jsonl.gz", content))

    assert "a.jsonl.gz is a damaged gzip file (" in message
    assert "compress it again" in message


def test_json(here):
    write("list.json", '[{"text": "x"},\n {"id": "own", "text": "y"}]')
    write("one.json", '{"text": "z", "n": 1}')

    assert [(d.id, d.text) for d in read(".")] == [
        ("list.json#1", "x"),
        ("own", "y"),
        ("one.json", "z"),
    ]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("not json", ["is not JSON (Expecting value at column 1)", "correct it"]),
        ('{"text": "x", "n": NaN}', ["is not JSON (NaN is not a JSON number)", "correct it"]),
        ("[" * 100_000, ["is not JSON", "correct it"]),
        ("[1]", ["is not a JSON object", 'write it as {"text": "…"}']),
        ('{"txt": "x", "n": 1}', ["no text", "(txt, n)", "text, content, contents or body"]),
        ("{}", ["no text", "(none)", "text, content, contents or body"]),
        ('{"text": " "}', ['no text in field "text"', "fill it"]),
        ('{"text": null}', ['no text in field "text"', "fill it"]),
        ('{"content": 5}', ['field "content" must be a string, not a number', "quote it"]),
        ('{"text": "x", "title": [1]}', ['"title" must be a string, not a list', "quote it"]),
        ('{"text": "x", "id": ""}', ['"id" must be a string or an integer', "write one"]),
        ('{"text": "x", "id": true}', ['"id" must be a string or an integer', "write one"]),
        ('{"text": "a\\u0000b"}', ['field "text" holds a NUL', "remove it"]),
        ('{"text": "a\\ud800b"}', ["half a surrogate pair at character 1", "whole character"]),
        ('{"text": "x", "n": 1e999}', ['field "n" must be', "write it as a string"]),
        ('{"text": "x", "n": 9223372036854775808}', ['field "n" must be', "as a string"]),
        ('{"text": "x", "metadata": [1]}', ['"metadata" must be an object, not a list', "write"]),
        ('{"text": "x", "metadata": {"a": {}}}', ['field "metadata.a" must be', "leave it out"]),
    ],
)
def test_bad_records_name_file_line_field_and_remedy(here, line, parts):
    path = write("a.jsonl", f'{{"text": "fine"}}\n{line}\n{{"text": "also fine"}}\n')

    message = error_of(path)

    assert message.startswith("a.jsonl, line 2")
    for part in parts:
        assert part in message
    kept = read(path, on_unreadable=lambda error: None)
    assert [d.id for d in kept] == ["a.jsonl#1", "a.jsonl#3"]


def test_bad_records_in_json_are_named_by_their_number(here):
    assert "a.json, record 2 is not a JSON object" in error_of(
        write("a.json", '[{"text": "x"}, 5]')
    )
    assert "b.json is not JSON (" in error_of(write("b.json", '[{"text":\n oops}]'))
    assert "at line 2, column 2" in error_of("b.json")
    assert "c.json holds no records; write some" in error_of(write("c.json", "[]"))


def test_mis_encoded_json_lines_name_the_byte_of_the_file(here):
    path = write("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}\n')

    assert "a.jsonl is not UTF-8 at byte 27; convert it" in error_of(path)


def test_table(here):
    write(
        "a.csv",
        "\ufeff,id,text,title,year,share,code,empty\r\n"
        '0,one,"First, ""quoted""\r\nline",T,1999,-0.5,007,\r\n'
        "\r\n1,,Second,,1e-05,1.0,9999999999999999999,x\r\n",
    )
    write("b.tsv", "body\tn\nit, is\t5\n")

    first, second, third = read(".")

    numbers = {"year": 1999, "share": -0.5, "code": "007", "empty": None}
    assert first == Document("one", 'First, "quoted"\nline', "T", "a.csv", numbers)
    assert second.id == "a.csv#5"
    assert second.metadata == {
        "year": 1e-05,
        "share": 1.0,
        "code": "9999999999999999999",
        "empty": "x",
    }
    assert isinstance(first.metadata["year"], int)
    assert third == Document("b.tsv#2", "it, is", "", "b.tsv", {"n": 5})


def test_a_long_cell(here):
    assert len(only(write("a.csv", f"text\n{'x' * 500_000}\n")).text) == 500_000


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("id,name\n1,x\n", ["a.csv, line 1 has no text column among id, name", "in the header"]),
        ("text,n,n\nx,1,2\n", ['line 1 names the column "n" twice', "rename"]),
        ("text,n\nx,1\ny,2,3\n", ["line 3 has 3 cells where the header has 2", "put quotes"]),
        ("text,n\nx,1\n ,2\n", ['line 3 has no text in field "text"', "fill it"]),
        ('text\nx\n"open\nz\n', ["line 3 is not a table row", "put quotes"]),
        ("text,n\n", ["a.csv holds no records", "write some"]),
    ],
)
def test_bad_tables(here, content, parts):
    message = error_of(write("a.csv", content))

    assert message.startswith("a.csv")
    for part in parts:
        assert part in message


def test_documents_with_one_id_are_refused_with_both_places(here):
    write("a.jsonl", '{"id": "x", "text": "1"}\n{"id": "y", "text": "2"}\n')
    write("b.csv", "id,text\nz,1\nx,2\n")

    message = error_of(["a.jsonl", "b.csv"])

    assert message == (
        'b.csv, line 3 has the id "x", as has a.jsonl, line 1; give each record its own id'
    )
    kept = read(["a.jsonl", "b.csv"], on_unreadable=lambda error: None)
    assert [d.id for d in kept] == ["x", "y", "z"]


def test_files_of_one_name_in_two_folders_are_refused_with_the_remedy(here):
    write("docs/one/a.md", "1")
    write("docs/two/a.md", "2")

    message = error_of(["docs/one", "docs/two"])

    assert str(Path("docs/two/a.md")) in message
    assert str(Path("docs/one/a.md")) in message
    assert "read both through the folder that holds them" in message
    assert [d.id for d in read("docs")] == ["one/a.md", "two/a.md"]


# ---- streams ----


def stdin(monkeypatch, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("text", ["\n# Just\ntext\n", "{\nnot a record", "[1]", "5"])
def test_text_from_stdin_is_one_document(monkeypatch, text):
    stdin(monkeypatch, text)

    assert only("-") == Document("stdin", text, "", "stdin")


def test_json_lines_from_stdin(monkeypatch):
    stdin(monkeypatch, '\n{"text": "x"}\n{"id": "own", "text": "y"}\n')

    assert [(d.id, d.text) for d in read("-")] == [("stdin#2", "x"), ("own", "y")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "stdin is empty; pipe a text or JSON Lines into it"),
        (" \n\n", "stdin is empty; pipe a text or JSON Lines into it"),
        (b"caf\xe9", "stdin is not UTF-8 at byte 3; convert it to UTF-8"),
        ('{"text": "x"}\noops', "stdin, line 2 is not JSON"),
    ],
)
def test_bad_stdin(monkeypatch, content, sentence):
    stdin(monkeypatch, content)

    with pytest.raises(DataError) as raised:
        read("-")
    assert str(raised.value).startswith(sentence)


def test_an_error_of_the_callback_is_not_reported_to_it_again(here):
    told = []

    def stop(error):
        told.append(error)
        raise DataError("enough")

    with pytest.raises(DataError, match="enough"):
        read(write("a.jsonl", "oops\n"), on_unreadable=stop)
    assert len(told) == 1


def test_reading_is_lazy(here):
    documents = read_documents(write("a.jsonl", '{"text": "x"}\noops\n'))

    assert next(documents).text == "x"
    with pytest.raises(DataError, match="line 2"):
        next(documents)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv"])
def test_a_long_file_is_never_held_as_a_whole(here, name):
    line = "text\n" if name == "a.csv" else ""
    record = f"{'word ' * 2000}\n" if line else json.dumps({"text": "word " * 2000}) + "\n"
    content = (line + record * 4000).encode()
    assert len(content) > 40_000_000
    write(name, gzip.compress(content, 1) if name.endswith("gz") else content)
    del content

    tracemalloc.start()
    count = sum(1 for _ in read_documents(name))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 4000
    assert peak < 12_000_000


def test_reading_loads_no_torch():
    check = (
        "import sys, openclara.data.reading, openclara.data.chunking; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
