"""An index as a server of the Model Context Protocol: assistants search, read and ask it.

    make_server(index, lambda: Clara.load(index.spec.model)).run("stdio")

The model is loaded when a tool first needs it; documents can be read at once. Tools run in threads,
one at a time in the model, so the server answers everything else meanwhile.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar
from urllib.parse import quote

from pydantic import Field, ValidationError

from openclara.errors import ConfigError, DataError, OpenClaraError
from openclara.index.filters import FORM
from openclara.integrations import turns
from openclara.integrations.mcp_results import (
    Added,
    Answered,
    Entry,
    Found,
    Listing,
    Passage,
    Text,
)
from openclara.types import Document, MetadataValue

try:
    from anyio.from_thread import check_cancelled
    from mcp.server.mcpserver import MCPServer, ResourceSecurity
    from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
    from mcp.types import ToolAnnotations
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("mcp", "anyio"):
        raise
    raise ConfigError("this needs the MCP SDK; run `pip install 'openclara[mcp]'`") from None

if TYPE_CHECKING:
    from collections.abc import Callable

    from openclara.index import LatentIndex
    from openclara.pipeline import Clara

PAGE = 50
"""Documents listed at once."""

SHOWN = 20_000
"""Characters of a document that are given at once unless more are asked for."""

Question = Annotated[str, Field(description="A whole question, understandable by itself.")]
Count = Annotated[int, Field(ge=1, le=50, description="How many passages.")]
Where = Annotated[
    list[str],
    Field(description=f"Filters on documents that must all hold: {FORM}."),
]
Id = Annotated[str, Field(description="Id of a document.")]

P = ParamSpec("P")
R = TypeVar("R")


def make_server(
    index: LatentIndex, load: Callable[[], Clara], *, writable: bool = False
) -> MCPServer[Any]:
    """A server of one index, to be run over any transport.

    Args:
        index: What is searched; it must stay open while the server runs.
        load: Gives the model that made it; called once, from a thread, by the first tool that needs
            it. What it raises as `OpenClaraError` is said to the caller, and tried again.
        writable: Whether there is a tool to add documents.
    """
    name = index.path.resolve().name
    server = _Server(
        "openclara",
        instructions=f"Documents of the index {name}. Use search to find passages and cite them by "
        "id and character span; use get_document to read on around one. The answers of ask are "
        "written by a small model: check them against the passages they come with.",
        # At INFO the SDK would log what is asked.
        log_level="WARNING",
    )
    tools = _Tools(index, load)
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    for tool in (tools.search, tools.ask, tools.get_document, tools.list_documents):
        server.add_tool(tool, annotations=reading)
    if writable:
        server.add_tool(
            tools.add_document,
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=True,  # a known id is replaced
                idempotent_hint=True,
                open_world_hint=False,
            ),
        )

    # Ids may look like paths, but nothing is opened by them.
    free = ResourceSecurity(exempt_params={"id"})

    @server.resource(f"openclara://{quote(name, safe='')}/{{+id}}", name="document", security=free)
    def document(id: str) -> str:
        """The whole text of a document by its percent-encoded id."""
        try:
            return index.get(id).text
        except DataError as error:
            raise ResourceNotFoundError(str(error)) from None

    return server


class _Server(MCPServer[Any]):
    """Says in one sentence which argument is wrong."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            first = error.__cause__.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ToolError(
                f"Error executing tool {name}: the argument {place} does not fit: {first['msg']}"
            ) from error.__cause__


def _said(tool: Callable[P, R]) -> Callable[P, R]:
    """The tool, with the user's errors as the SDK passes them on."""

    @functools.wraps(tool)
    def saying(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return tool(*args, **kwargs)
        except OpenClaraError as error:
            raise ToolError(str(error)) from None

    return saying


class _Tools:
    """The tools; names and docstrings are what a client sees."""

    def __init__(self, index: LatentIndex, load: Callable[[], Clara]) -> None:
        self._index, self._load = index, load
        self._loading = threading.Lock()
        self._loaded: Clara | None = None

    def _clara(self) -> Clara:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    @_said
    def search(self, question: Question, k: Count = 5, where: Where = []) -> Found:  # noqa: B006
        """Find the passages that answer a question best, by meaning and by words."""
        hits = turns.search(
            self._clara(), self._index, question, k=k, mode="hybrid", where=where, n_memory=None
        )
        return Found(passages=[Passage.of(hit) for hit in hits])

    @_said
    def ask(
        self,
        question: Question,
        k: Count | None = None,
        where: Where = [],  # noqa: B006
    ) -> Answered:
        """Answer a question briefly from the passages found for it, which come along."""
        answered = turns.stream(self._clara(), self._index, question, k=k, where=where)
        for _ in answered:
            # Who asked may have hung up; the model is then free for the next.
            check_cancelled()
        answer = answered.answer
        return Answered(answer=answer.text, passages=[Passage.of(hit) for hit in answer.hits])

    @_said
    def get_document(
        self,
        id: Id,
        start: Annotated[int, Field(ge=0, description="First character.")] = 0,
        end: Annotated[
            int | None, Field(ge=0, description=f"One past the last; start + {SHOWN:,} if null.")
        ] = None,
    ) -> Text:
        """Read a document, or the characters from start to end of it."""
        document = self._index.get(id)
        text = document.text[start : start + SHOWN if end is None else end]
        entry = Entry.of(document).model_dump()
        return Text(**entry, start=start, end=start + len(text), text=text)

    @_said
    def list_documents(
        self,
        where: Where = [],  # noqa: B006
        limit: Annotated[int, Field(ge=1, le=500)] = PAGE,
        offset: Annotated[int, Field(ge=0)] = 0,
    ) -> Listing:
        """List documents without their texts, in the order they were added."""
        found = self._index.documents(where=where, offset=offset)
        entries = [Entry.of(document) for document in islice(found, limit)]
        more = next(found, None) is not None
        return Listing(
            documents=entries,
            total=len(self._index),
            next_offset=offset + limit if more else None,
        )

    @_said
    def add_document(
        self,
        text: Annotated[str, Field(description="The whole text.")],
        id: Annotated[
            str | None, Field(description="Replaces the document of that id; made if null.")
        ] = None,
        title: str = "",
        metadata: Annotated[
            dict[str, MetadataValue] | None, Field(description="Flat fields to filter by.")
        ] = None,
    ) -> Added:
        """Add a document to the index, or replace one; it can be found at once."""
        if not text.strip():
            raise DataError("the text is empty; give the document some")
        made = hashlib.sha256(f"{title}\n{text}".encode(errors="replace")).hexdigest()[:16]
        document = Document(id or f"text-{made}", text, title, metadata=metadata or {})
        report = turns.add(self._clara(), self._index, [document])
        change = "added" if report.added else "updated" if report.updated else "unchanged"
        return Added(id=document.id, change=change)
