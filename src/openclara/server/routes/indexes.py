"""`/v1/indexes`."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from openclara.server.bodies import IndexesReply, IndexReply, NewIndex
from openclara.server.failures import Reply
from openclara.server.records import index_record
from openclara.server.service import service_of

router = APIRouter(tags=["indexes"])


@router.get("/v1/indexes", response_model=IndexesReply, summary="List indexes")
def indexes(request: Request) -> Response:
    """The indexes that are served, in numbers."""
    served = service_of(request).library.all()
    return Reply({"indexes": [index_record(one) for one in served]})


@router.post("/v1/indexes", response_model=IndexReply, status_code=201, summary="Make an index")
async def create(request: Request, body: NewIndex) -> Response:
    """Make an empty index in the root folder; the service needs one for it."""
    library = service_of(request).library
    async with library.writing(body.name):
        served = await run_in_threadpool(library.create, body.name, body.quantization)
    return Reply(await run_in_threadpool(index_record, served), 201)


@router.delete("/v1/indexes/{name}", status_code=204, summary="Remove an index")
async def delete(request: Request, name: str) -> Response:
    """Remove an index of the root folder with all it holds."""
    library = service_of(request).library
    async with library.writing(name):
        await run_in_threadpool(library.delete, name)
    return Response(status_code=204)
