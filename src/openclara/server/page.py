"""The page, and the description of the API for people; neither loads anything from elsewhere."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.responses import FileResponse, HTMLResponse
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

STATIC = Path(__file__).parent / "static"
METHODS = ("get", "post", "put", "delete")


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`, what it loads below `/static`, and `/docs`."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(described(app.openapi()))

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def described(api: dict[str, Any]) -> str:
    """The routes of an OpenAPI description as one page without scripts or styles."""
    title = escape(f"{api['info']['title']} {api['info']['version']}")
    parts = "".join(_routes(api))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>{escape(api['info']['description'])}</p>"
        f'<p>For programs: <a href="/openapi.json">openapi.json</a></p>{parts}</html>'
    )


def _routes(api: dict[str, Any]) -> Iterator[str]:
    for path, methods in api["paths"].items():
        for method in METHODS:
            if method not in methods:
                continue
            route = methods[method]
            name = escape(f"{method.upper()} {path}")
            yield f"<h2><code>{name}</code> {escape(route['summary'])}</h2>"
            yield f"<p>{escape(route.get('description', ''))}</p>"
            names = [f"{one['name']} ({one['in']})" for one in route.get("parameters", [])]
            if names:
                yield f"<p>Parameters: {escape(', '.join(names))}</p>"
            example = _example(api, route)
            if example is not None:
                yield f"<pre>{escape(json.dumps(example, indent=2))}</pre>"


def _example(api: dict[str, Any], route: dict[str, Any]) -> Any:
    content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    schema = api["components"]["schemas"].get(name, {})
    if schema.get("examples"):
        return schema["examples"][0]
    own = {
        field: about["examples"][0]
        for field, about in schema.get("properties", {}).items()
        if about.get("examples")
    }
    return own or None
