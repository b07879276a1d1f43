"""`/v1/jobs`."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from openclara.server.bodies import JobReply, JobsReply
from openclara.server.failures import Reply
from openclara.server.jobs import Job
from openclara.server.service import service_of

router = APIRouter(tags=["jobs"])


def job_record(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    return asdict(job)


@router.get("/v1/jobs", response_model=JobsReply, summary="List jobs")
async def jobs(request: Request) -> Response:
    """Jobs, newest first."""
    return Reply({"jobs": [job_record(job) for job in service_of(request).jobs.all()]})


@router.get("/v1/jobs/{id}", response_model=JobReply, summary="Look at a job")
async def job(request: Request, id: str) -> Response:
    """Where a job stands."""
    return Reply(job_record(service_of(request).jobs.get(id)))


@router.delete("/v1/jobs/{id}", response_model=JobReply, summary="Cancel a job")
async def cancel(request: Request, id: str) -> Response:
    """Stop a job after the group of documents under way; what is done stays in the index."""
    return Reply(job_record(service_of(request).jobs.cancel(id)))
