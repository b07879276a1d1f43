"""`/v1/documents`, `/v1/jobs` and `/v1/indexes`: what goes in, what comes out."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclara.index import LatentIndex
from openclara.server.uploads import safe_name
from openclara.types import Document


def upload(service, files, **options):
    return service.client.post("/v1/documents", files=[("files", one) for one in files], **options)


def ids(service, index="docs"):
    page = service.client.get("/v1/documents", params={"index": index, "limit": 200}).json()
    return [one["id"] for one in page["documents"]]


# ---- reading ----


def test_documents_are_listed_by_pages_and_filters(shared):
    page = shared.client.get("/v1/documents", params={"limit": 2, "offset": 1}).json()
    assert (page["total"], page["limit"], page["offset"]) == (3, 2, 1)
    assert [one["id"] for one in page["documents"]] == ["rivers/angara", "train"]
    assert page["documents"][0]["n_characters"] == 215
    some = shared.client.get("/v1/documents", params={"where": ["year>1900", "year<2000"]}).json()
    assert (some["total"], [one["id"] for one in some["documents"]]) == (1, ["opera"])


def test_an_id_with_slashes_is_one_id(shared):
    for path in ("rivers%2Fangara", "rivers/angara"):
        reply = shared.client.get(f"/v1/documents/{path}").json()
        assert (reply["id"], reply["title"]) == ("rivers/angara", "Angara")
        assert reply["text"].startswith("The river Angara")


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "%ff",
        "a" * 3000,
        "%2Fetc%2Fpasswd",
        "..%2fdocs.idx%2findex.json",
    ],
)
def test_an_id_is_never_a_path(shared, path):
    reply = shared.client.get(f"/v1/documents/{path}")
    assert reply.status_code in (400, 404)
    assert "root:" not in reply.text


# ---- writing ----


def test_a_document_is_put_replaced_and_removed(service, wait_for):
    for text in ("The tower is made of iron.", "The tower is made of steel."):
        reply = service.client.put(
            "/v1/documents/a%2Ftower", json={"text": text, "metadata": {"year": 1889}}
        )
        assert reply.status_code == 202
        job = wait_for(reply.json())
        assert (job["status"], job["ids"], job["documents_done"]) == ("done", ["a/tower"], 1)
        assert job["chunks_done"] >= 1
    stored = service.client.get("/v1/documents/a%2Ftower").json()
    assert (stored["text"], stored["metadata"]) == (text, {"year": 1889})
    found = service.client.post("/v1/search", json={"question": "iron steel tower", "k": 1}).json()
    assert found["hits"][0]["id"] == "a/tower"
    assert service.client.delete("/v1/documents/a%2Ftower").json() == {"deleted": 1}
    assert service.client.delete("/v1/documents/a%2Ftower").status_code == 404


def test_documents_without_an_id_are_the_same_each_time(service, wait_for):
    body = {
        "documents": [{"text": "One."}, {"text": "Two.", "title": "T"}, {"id": "x", "text": "3"}]
    }
    first = wait_for(service.client.post("/v1/documents", json=body).json())
    again = wait_for(service.client.post("/v1/documents", json=body).json())
    assert first["ids"] == again["ids"]
    assert len(ids(service)) == 3 + 3


def test_documents_are_removed_by_filter_and_never_all_by_accident(service):
    assert service.client.delete("/v1/documents").status_code == 400
    assert service.client.delete("/v1/documents", params={"where": "year<1900"}).json() == {
        "deleted": 1
    }
    assert ids(service) == ["opera", "rivers/angara"]


@pytest.mark.parametrize(
    "body",
    [
        {"text": "  "},
        {"text": 5},
        {},
        {"text": "x", "metadata": {"a": [1]}},
        {"text": "x", "id": "y"},
        {"text": "x", "metadata": {"a": 1e999}},
    ],
)
def test_a_document_that_cannot_be_kept_is_refused_at_once(service, body):
    import json

    reply = service.client.put(
        "/v1/documents/x", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400, reply.text
    assert service.client.get("/v1/jobs").json() == {"jobs": []}


# ---- uploads ----


def test_files_of_every_kind_are_read_and_bad_ones_are_skipped(service, wait_for, tmp_path):
    import docx

    word = docx.Document()
    word.add_paragraph("The bridge crosses the bay.")
    word.save(tmp_path / "bridge.docx")
    files = [
        ("notes.txt", b"The lake is deep."),
        ("page.html", b"<title>Hill</title><p>The hill is green.</p>"),
        ("rows.jsonl", b'{"id": "r1", "text": "First."}\n{"text": "Second."}\n{"no": 1}\n'),
        ("table.csv", b"id,text\nc1,A cell.\n"),
        ("bridge.docx", (tmp_path / "bridge.docx").read_bytes()),
        ("program.py", b"print('the unknown suffix is text')"),
        ("empty.txt", b""),
        ("broken.pdf", b"%PDF-1.4 nothing"),
        ("binary.txt", bytes(range(256))),
        ("notes.txt", b"Another of the same name."),
    ]
    job = wait_for(upload(service, files).json())
    assert job["status"] == "done"
    expected = ["notes.txt", "page.html", "r1", "rows.jsonl#2", "c1", "bridge.docx", "program.py"]
    assert sorted(job["ids"]) == sorted(expected)
    assert job["documents_done"] == job["documents_total"] == len(expected)
    skipped = [one["file"] for one in job["skipped"]]
    assert sorted(skipped) == ["binary.txt", "broken.pdf", "empty.txt", "notes.txt", "rows.jsonl"]
    reasons = " ".join(one["reason"] for one in job["skipped"])
    assert str(service.service.library.root) not in reasons
    assert "/" not in reasons.replace("and/or", "")
    one = service.client.get("/v1/documents/notes.txt").json()
    assert (one["source"], one["title"]) == ("notes.txt", "notes")
    assert not list(service.service.journal.uploads.iterdir())


def test_an_upload_of_nothing_but_bad_files_fails_and_says_so(service, wait_for):
    job = wait_for(upload(service, [("x.pdf", b"no")]).json())
    assert (job["status"], job["documents_done"]) == ("failed", 0)
    assert "no document could be read" in job["error"]["message"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\notes.txt", "notes.txt"),
        ("/etc/passwd", "passwd"),
        ("..", "upload.txt"),
        ("", "upload.txt"),
        (None, "upload.txt"),
        (".env", ".env"),
        ("a\0b\r\nX-Evil: 1.txt", "abX-Evil: 1.txt"),
        ("-", "-"),
        ("*.txt", "*.txt"),
    ],
)
def test_only_the_last_part_of_a_name_counts(sent, kept):
    assert safe_name(sent) == kept


@given(st.text(max_size=400) | st.text("./\\\0\r\n a", max_size=400))
def test_a_safe_name_is_one_component_of_a_path(sent):
    name = safe_name(sent)
    assert Path(name).name == name
    assert 0 < len(name.encode()) <= 255
    assert name.isprintable() or " " in name or name.strip()
    assert not set(name) & set("/\\\0\r\n")


def test_names_that_lead_elsewhere_write_nothing_there(service, wait_for, root):
    before = {path for path in root.parent.rglob("*") if "docs.idx" not in path.parts}
    job = wait_for(upload(service, [("../../../evil.txt", b"Evil."), ("..", b"Dots.")]).json())
    assert sorted(job["ids"]) == ["evil.txt", "upload.txt"]
    after = {path for path in root.parent.rglob("*") if "docs.idx" not in path.parts}
    assert {path.name for path in after - before} <= {f"{job['id']}.json"}


def truncated(data):
    return [data[: len(data) * part // 4] for part in (1, 2, 3)]


def bomb(n_bytes):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * n_bytes)
    return packed.getvalue()


def test_damaged_and_hostile_files_are_skipped_and_never_fail_the_service(
    service, wait_for, tmp_path
):
    import gzip
    import random

    import docx
    from pypdf import PdfWriter

    word = docx.Document()
    word.add_paragraph("Words. " * 500)
    word.save(tmp_path / "w.docx")
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    with (tmp_path / "p.pdf").open("wb") as file:
        writer.write(file)
    chance = random.Random(1)
    packed = gzip.compress(b'{"text": "x"}\n' * 500)
    files = []
    for suffix, data in (
        ("docx", (tmp_path / "w.docx").read_bytes()),
        ("pdf", (tmp_path / "p.pdf").read_bytes()),
        ("jsonl.gz", packed),
    ):
        files += [(f"cut{n}.{suffix}", part) for n, part in enumerate(truncated(data))]
        flipped = bytearray(data)
        for _ in range(20):
            flipped[chance.randrange(len(flipped))] ^= 0xFF
        files.append((f"flipped.{suffix}", bytes(flipped)))
    for suffix in ("docx", "pdf", "html", "json", "jsonl", "csv", "tsv", "md", "jsonl.gz"):
        files.append((f"noise.{suffix}", chance.randbytes(600)))
    files += [
        ("utf16.txt", "Ein Text.".encode("utf-16")),
        ("latin.txt", "Größe".encode("latin-1")),
        ("deep.json", b"[" * 200_000),
        ("deep.html", b"<div>" * 20_000 + b"x"),
        ("wide.csv", b"text\n" + b'"' * 100_001),
        ("null.md", b"a\0b"),
        (
            "surrogate.jsonl",
            b'{"id": "\\ud800", "text": "x"}\n{"id": "fine", "text": "\\ud800y"}\n',
        ),
        ("big.jsonl", b'{"text": "x", "n": ' + b"9" * 400 + b"}"),
    ]
    reply = upload(service, files)
    assert reply.status_code == 202
    job = wait_for(reply.json())
    assert job["status"] == "done", job["error"]
    assert {"cut1.docx", "cut1.pdf", "noise.pdf", "noise.docx", "deep.json"} <= {
        one["file"] for one in job["skipped"]
    }
    # Whatever was taken in can be listed, read and found again.
    for name in job["ids"]:
        assert service.client.get("/v1/documents/" + name.replace("#", "%23")).status_code == 200
    assert service.client.get("/healthz").status_code == 200


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path):
    import gzip

    from openclara.server.uploads import Uploaded, read_uploads

    (tmp_path / "b.docx").write_bytes(bomb(3_000_000))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b" " * 3_000_000))
    files = [Uploaded(name, tmp_path / name) for name in ("b.docx", "b.jsonl.gz")]
    reasons = [item.reason for item in read_uploads(files, unpacked_bytes=1_000_000)]
    assert all("unpacks to more than 1,000,000 bytes" in reason for reason in reasons)
    assert len(reasons) == 2


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"x", "text/plain", 415),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=b", 400),
        (
            b"--b\r\nContent-Disposition: form-data; name=files\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            400,
        ),
        (
            b"--b\r\nContent-Disposition: form-data; name=other; filename=x\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            400,
        ),
        (b'{"documents": []}', "application/json", 400),
        (b'{"documents": [{"text": "x"}', "application/json", 400),
    ],
)
def test_an_upload_that_is_none_is_refused(service, content, kind, status):
    reply = service.client.post("/v1/documents", content=content, headers={"content-type": kind})
    assert reply.status_code == status, reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


# ---- jobs ----


def test_jobs_are_listed_newest_first_and_unknown_ones_not_found(service, wait_for):
    jobs = [
        wait_for(service.client.put(f"/v1/documents/{n}", json={"text": "x"}).json())
        for n in range(3)
    ]
    assert service.client.get("/v1/jobs").json() == {"jobs": jobs[::-1]}
    assert service.client.get("/v1/jobs/nothing").status_code == 404
    assert service.client.delete(f"/v1/jobs/{jobs[0]['id']}").status_code == 409


def test_the_queue_is_bounded_and_a_waiting_job_can_be_cancelled(service, wait_for):
    async def held(documents, index):
        await release.wait()
        return await compress(documents, index)

    import asyncio

    compress, release = service.engine.compress, asyncio.Event()
    service.engine.compress = held

    def put(n):
        return service.client.put(f"/v1/documents/{n}", json={"text": "x"})

    replies = [put(n) for n in range(30)]
    accepted = [reply for reply in replies if reply.status_code == 202]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert len(accepted) + len(refused) == 30
    assert len(accepted) in (16, 17)
    assert int(refused[0].headers["retry-after"]) > 0
    last = accepted[-1].json()
    assert service.client.delete(f"/v1/jobs/{last['id']}").json()["status"] == "cancelled"
    service.call(release.set)
    assert all(wait_for(reply.json())["status"] == "done" for reply in accepted[:-1])
    assert last["ids"] == []
    assert str(len(accepted) - 1) not in ids(service)


def test_a_running_job_is_cancelled_between_groups_and_keeps_what_is_done(service, wait_for):
    import asyncio
    import threading

    started, release, compress = threading.Event(), asyncio.Event(), service.engine.compress

    async def held(documents, index):
        started.set()
        await release.wait()
        return await compress(documents, index)

    service.engine.compress = held
    body = {"documents": [{"id": f"d{n}", "text": f"Text {n}."} for n in range(40)]}
    job = service.client.post("/v1/documents", json=body).json()
    started.wait(20)
    assert service.client.delete(f"/v1/jobs/{job['id']}").json()["status"] == "running"
    service.call(release.set)
    job = wait_for(job)
    assert (job["status"], job["documents_done"], job["documents_total"]) == ("cancelled", 8, 40)
    assert [name for name in ids(service) if name.startswith("d")] == job["ids"]


# ---- indexes ----


def test_an_index_is_made_filled_asked_and_removed(service, wait_for, root):
    made = service.client.post("/v1/indexes", json={"name": "new", "quantization": "int8"})
    assert made.status_code == 201
    assert (made.json()["documents"], made.json()["quantization"]) == (0, "int8")
    assert service.client.post("/v1/indexes", json={"name": "new"}).status_code == 409
    # Two indexes: each request has to say which.
    assert service.client.post("/v1/ask", json={"question": "x"}).status_code == 400
    job = service.client.put(
        "/v1/documents/a?index=new", json={"text": "The tower is made of iron."}
    ).json()
    assert wait_for(job)["status"] == "done"
    body = {"question": "What is the tower made of?", "index": "new", "max_tokens": 3}
    assert service.client.post("/v1/ask", json=body).json()["hits"][0]["id"] == "a"
    assert [one["id"] for one in service.client.get("/v1/models").json()["data"]] == ["docs", "new"]
    assert service.client.delete("/v1/indexes/new").status_code == 204
    assert service.client.post("/v1/ask", json=body).status_code == 404
    assert not (root / "new.idx").exists()
    assert not list(root.glob(".openclara-trash/*"))


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "x/y",
        "",
        ".hidden",
        "UPPER",
        "a" * 65,
        "x.idx",
        "a\nb",
        "a b",
        "%2e%2e",
        "docs/../../x",
    ],
)
def test_an_odd_name_makes_no_index(service, root, name):
    before = sorted(root.parent.rglob("*"))
    assert service.client.post("/v1/indexes", json={"name": name}).status_code == 400
    assert sorted(root.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2froot", "docs.idx", "nothing", ".openclara"])
def test_nothing_but_an_index_is_removed(service, root, name):
    assert service.client.delete(f"/v1/indexes/{name}").status_code in (404, 405)
    assert (root / "docs.idx").is_dir()


def test_a_given_index_is_not_removed_and_none_is_made_without_a_root(clara, root):
    from serving import serving

    with serving(clara, [root / "docs.idx"]) as service:
        assert service.client.delete("/v1/indexes/docs").status_code == 403
        assert service.client.post("/v1/indexes", json={"name": "x"}).status_code == 403
        assert service.client.get("/v1/session").json()["can_create_indexes"] is False


def test_a_link_out_of_the_root_is_not_served(clara, root, tmp_path):
    from serving import serving

    outside = (root / "docs.idx").rename(tmp_path / "outside.idx")
    (root / "link.idx").symlink_to(outside)
    with serving(clara, root=root) as service:
        assert service.client.get("/v1/indexes").json() == {"indexes": []}


def test_what_another_process_adds_is_seen_at_the_next_request(service, root, clara, tiny_model):
    program = (
        "import sys\n"
        "from openclara import Clara, Document, LatentIndex\n"
        "clara = Clara.load(sys.argv[2], device='cpu', precision='fp32')\n"
        "for name in ('docs', 'fresh'):\n"
        "    with LatentIndex.open(f'{sys.argv[1]}/{name}.idx', clara.latent_spec) as index:\n"
        "        index.add(clara.compress([Document('zebra', 'A zebra has stripes.')]))\n"
    )
    assert service.client.post("/v1/search", json={"question": "zebra"}).status_code == 200
    command = [sys.executable, "-W", "ignore", "-c", program, str(root), str(tiny_model)]
    subprocess.run(command, check=True)
    for name in ("docs", "fresh"):
        body = {"question": "zebra stripes", "index": name, "k": 1}
        hits = service.client.post("/v1/search", json=body).json()["hits"]
        assert hits[0]["id"] == "zebra"


def test_an_index_replaced_by_another_of_its_name_is_opened_anew(service, root, clara):
    import shutil

    assert ids(service) == ["opera", "rivers/angara", "train"]
    shutil.rmtree(root / "docs.idx")
    assert service.client.post("/v1/search", json={"question": "x"}).status_code == 404
    with LatentIndex.open(root / "docs.idx", clara.latent_spec) as index:
        index.add(clara.compress([Document("only", "The only text.")]))
    assert ids(service) == ["only"]


def test_an_index_of_another_model_is_named_and_not_served(service, root, clara):
    from dataclasses import replace

    other = replace(clara.latent_spec, fingerprint="other", model="/home/me/secret/other")
    LatentIndex.open(root / "other.idx", other).close()
    names = [one["name"] for one in service.client.get("/v1/indexes").json()["indexes"]]
    assert names == ["docs"]
    reply = service.client.post("/v1/search", json={"question": "x", "index": "other"})
    assert reply.status_code == 409
    assert "made by model other" in reply.json()["error"]["message"]
    assert "/home" not in reply.text


def test_a_damaged_index_hinders_no_other_and_its_error_names_no_path(service, root):
    (root / "bad.idx").mkdir()
    (root / "bad.idx" / "index.json").write_text("{", encoding="utf-8")
    assert len(service.client.get("/v1/indexes").json()["indexes"]) == 1
    reply = service.client.post("/v1/search", json={"question": "x", "index": "bad"})
    assert reply.status_code == 500
    assert str(root) not in reply.text


def test_a_document_with_half_a_character_can_be_read(service, root, clara):
    with LatentIndex.open(root / "docs.idx", clara.latent_spec) as index:
        index.add(clara.compress([Document("half", "A half \ud800 character zebra.")]))
    assert (
        service.client.get("/v1/documents/half").json()["text"] == "A half \ud800 character zebra."
    )
    body = {"question": "half character zebra", "k": 1}
    assert service.client.post("/v1/search", json=body).json()["hits"][0]["id"] == "half"
