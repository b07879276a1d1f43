"""The service as an ASGI application: layers around, routes inside."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import openclara
from openclara.errors import OpenClaraError
from openclara.server.access import Access, needed
from openclara.server.bodies import ErrorReply, NewDocuments
from openclara.server.failures import invalid
from openclara.server.limits import Bounded
from openclara.server.observing import Observing
from openclara.server.openai import chat, completions, embeddings, models
from openclara.server.page import add_page
from openclara.server.routes import documents, indexes, jobs, latents, questions, status
from openclara.server.service import Service
from openclara.server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openclara.server.asking import Engine
    from openclara.server.library import Library

DESCRIPTION = (
    "Answers from documents that were compressed once into a few vectors each. "
    "Every failure has one shape: a type and one sentence that says what to do."
)
REFUSALS = {
    400: "The request is wrong.",
    401: "An API key is missing or unknown.",
    403: "The key, or the service, does not allow it.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "It clashes with what is there, or with another writer.",
    413: "The body is too large.",
    415: "The body is of a kind that is not read.",
    429: "There is no room now; see Retry-After.",
    500: "The service failed.",
    503: "The service is stopping, or a disk is full.",
    504: "It took too long.",
}
ROUTERS = (questions, documents, indexes, jobs, latents, status, chat, completions, embeddings,
           models)  # fmt: skip


def create_app(
    engine: Engine,
    library: Library,
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> FastAPI:
    """Put a service together.

    Args:
        engine: Runs the model; closed when the application ends.
        library: The indexes; likewise.
        settings: How it behaves.

    Returns:
        An application; its `state.service` is the service.
    """
    service = Service(engine, library, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    responses: dict[int | str, dict[str, Any]] = {
        code: {"model": ErrorReply, "description": text} for code, text in REFUSALS.items()
    }
    app = FastAPI(
        title="openclara",
        version=openclara.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=responses,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    for module in ROUTERS:
        app.include_router(module.router)
    add_page(app)
    _answer_failures(app, service)
    _describe(app)
    # From the inside out: what is added last sees a request first.
    app.add_middleware(Bounded, limits=settings.limits)
    app.add_middleware(
        Access,
        keys=service.keys,
        hosts=settings.hosts,
        origins=settings.origins,
        draining=lambda: service.draining,
        cleaned=service.failure,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Observing, metrics=service.metrics)
    return app


def _answer_failures(app: FastAPI, service: Service) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        return service.failure(error).response()

    async def refuse_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors()).response()

    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(OpenClaraError, refuse)
    app.add_exception_handler(RequestValidationError, refuse_invalid)


def _describe(app: FastAPI) -> None:
    """Describe what is really answered: no 422, and the key where it is needed."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            api = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                separate_input_output_schemas=False,
            )
            parts = api["components"]
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schemas = NewDocuments.model_json_schema(ref_template="#/components/schemas/{model}")
            parts["schemas"].update(schemas.pop("$defs"))
            parts["schemas"]["NewDocuments"] = schemas
            for name in ("HTTPValidationError", "ValidationError"):
                parts["schemas"].pop(name, None)
            for path, methods in api["paths"].items():
                for method, route in methods.items():
                    route["responses"].pop("422", None)
                    if needed(method.upper(), path) is not None:
                        route["security"] = [{"key": []}]
            app.openapi_schema = api
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
