"""`/v1/documents`: what an index holds, what is put into it, what is taken out."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

import hashlib
import shutil
from pathlib import Path as Folder
from tempfile import mkdtemp
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from openclara.errors import DataError
from openclara.index.adding import check_document
from openclara.server.bodies import (
    DeletedReply,
    DocumentReply,
    DocumentsReply,
    JobReply,
    NamedDocument,
    NewDocument,
    NewDocuments,
    Text,
)
from openclara.server.failures import Failure, Reply, invalid
from openclara.server.library import Served
from openclara.server.limits import check_at_most, check_filters
from openclara.server.records import document_record, listed_record
from openclara.server.routes.jobs import job_record
from openclara.server.service import Service, service_of
from openclara.server.uploads import Skipped, Uploaded, read_uploads, safe_name, store
from openclara.types import Document

router = APIRouter(tags=["documents"])

Index = Annotated[
    Text | None, Query(description="Name of the index; may be left out where there is one.")
]
Where = Annotated[
    list[Text], Query(description="Filter such as year>=2020; given several times, all must hold.")
]
Id = Annotated[Text, Path(min_length=1, description="Id of the document; it may hold slashes.")]

UPLOAD = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/NewDocuments"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {
                    "files": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        },
    },
}


@router.get("/v1/documents", response_model=DocumentsReply, summary="List documents")
def documents(
    request: Request,
    index: Index = None,
    where: Where = [],  # noqa: B006 - fastapi copies it
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, lt=2**62)] = 0,
) -> Response:
    """A page of documents without their texts, in the order their ids were first added."""
    service = service_of(request)
    check_filters(where)
    served = service.library.get(index)
    page = served.index.documents(where=where, limit=limit, offset=offset)
    return Reply(
        {
            "index": served.name,
            "total": served.index.count(where),
            "limit": limit,
            "offset": offset,
            "documents": [listed_record(document) for document in page],
        }
    )


@router.get("/v1/documents/{id:path}", response_model=DocumentReply, summary="Read a document")
def document(request: Request, id: Id, index: Index = None) -> Response:
    """A document with its text."""
    served = service_of(request).library.get(index)
    return Reply(document_record(_document(served, id)))


@router.put(
    "/v1/documents/{id:path}", response_model=JobReply, status_code=202, summary="Put a document"
)
async def put_document(
    request: Request, id: Id, body: NewDocument, index: Index = None
) -> Response:
    """Add a document, or replace the one of that id, in the background."""
    service = service_of(request)
    served = await _writable(service, index)
    one = Document(id, body.text, body.title, body.source, body.metadata)
    job = service.jobs.submit(served.name, _checked(service, [one]), total=1)
    return Reply(job_record(job), 202)


@router.post(
    "/v1/documents",
    response_model=JobReply,
    status_code=202,
    summary="Add documents",
    openapi_extra={"requestBody": UPLOAD},
)
async def add_documents(request: Request, index: Index = None) -> Response:
    """Add documents in the background: as JSON, or as files of any kind that is read.

    Text, Markdown, HTML, PDF, Word, JSON Lines, JSON and CSV are. A file that cannot be read is
    listed in `skipped` with the reason, and does not hinder the others.
    """
    service = service_of(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise Failure(415, "send application/json, or files as multipart/form-data")
    served = await _writable(service, index)
    if kind == "application/json":
        given = await _json_documents(request, service)
        job = service.jobs.submit(served.name, given, total=len(given))
        return Reply(job_record(job), 202)
    # One more than may be, so that it is ours to say so.
    limit = service.limits.upload_files + 1
    async with request.form(max_files=limit, max_fields=16) as form:
        files, skipped, folder = await _spooled(service, form)
    items = read_uploads(files, unpacked_bytes=service.limits.unpacked_bytes)
    job = service.jobs.submit(served.name, items, skipped=skipped, folder=folder)
    return Reply(job_record(job), 202)


@router.delete("/v1/documents/{id:path}", response_model=DeletedReply, summary="Remove a document")
async def delete_document(request: Request, id: Id, index: Index = None) -> Response:
    """Remove a document; the space of its latents is won back by `openclara index compact`."""
    service = service_of(request)
    served = await _writable(service, index)
    async with service.library.writing(served.name):
        deleted = await run_in_threadpool(served.index.delete, [id])
    if not deleted:
        raise _missing()
    return Reply({"deleted": deleted})


@router.delete("/v1/documents", response_model=DeletedReply, summary="Remove documents")
async def delete_documents(
    request: Request,
    where: Annotated[list[Text], Query(min_length=1, description="Filters that must all hold.")],
    index: Index = None,
) -> Response:
    """Remove every document that all filters hold for."""
    service = service_of(request)
    check_filters(where)
    served = await _writable(service, index)
    async with service.library.writing(served.name):
        deleted = await run_in_threadpool(lambda: served.index.delete(where=where))
    return Reply({"deleted": deleted})


async def _writable(service: Service, index: str | None) -> Served:
    served = await run_in_threadpool(service.library.get, index)
    if not served.writable:
        raise Failure(403, f"the index {served.name} may not be changed by this service")
    return served


def _document(served: Served, name: str) -> Document:
    if name not in served.index:
        raise _missing()
    try:
        return served.index.get(name)
    except DataError:
        raise _missing() from None  # removed between the two looks


def _missing() -> Failure:
    return Failure(404, "the index has no document of that id", param="id")


async def _json_documents(request: Request, service: Service) -> list[Document]:
    content = await request.body()
    try:
        body = NewDocuments.model_validate_json(content)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)) from None
    check_at_most(len(body.documents), service.limits.texts, "documents")
    return _checked(service, [_named(one) for one in body.documents])


def _named(one: NamedDocument) -> Document:
    """The same text without an id is the same document, so sending it again changes nothing."""
    name = one.id
    if name is None:
        name = hashlib.sha256(f"{one.title}\0{one.text}".encode()).hexdigest()[:16]
    return Document(name, one.text, one.title, one.source, one.metadata)


def _checked(service: Service, given: list[Document]) -> list[Document]:
    for one in given:
        if not one.text.strip():
            raise Failure(400, "a document has no text; write some", param="text")
        try:
            check_document(one)
        except DataError as error:
            raise service.failure(error) from None
    return given


async def _spooled(
    service: Service, form: FormData
) -> tuple[list[Uploaded], list[Skipped], Folder]:
    sent: list[Any] = form.getlist("files")
    if not sent or not all(isinstance(one, UploadFile) for one in sent):
        raise Failure(400, "send at least one file, each in a part named files", param="files")
    check_at_most(len(sent), service.limits.upload_files, "files")
    folder = Folder(mkdtemp(dir=service.journal.uploads))
    try:
        return (*await run_in_threadpool(_stored, sent, folder), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _stored(sent: list[UploadFile], folder: Folder) -> tuple[list[Uploaded], list[Skipped]]:
    files, skipped = [], []
    for number, one in enumerate(sent):
        name = safe_name(one.filename)
        if one.size == 0:
            skipped.append(Skipped(name, f"{name} is empty; write text into it or leave it out"))
        else:
            files.append(store(one.file, name, folder, number))
    return files, skipped
