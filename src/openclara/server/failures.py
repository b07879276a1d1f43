"""Everything that goes wrong in one shape: a status, and one sentence that names no path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.responses import Response
from starlette.exceptions import HTTPException

from openclara.errors import (
    Busy,
    ConfigError,
    DataError,
    FormatError,
    IndexBusy,
    IndexMismatch,
    OpenClaraError,
    TimedOut,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found",
    408: "timeout",
    409: "conflict",
    429: "rate_limit_error",
    504: "timeout",
}
"""Types of errors by status; other 4xx are `invalid_request_error`, other 5xx `server_error`."""

STATUSES: tuple[tuple[type[OpenClaraError], int], ...] = (
    (Busy, 429),
    (TimedOut, 504),
    (IndexBusy, 409),
    (IndexMismatch, 409),
    (ConfigError, 400),
    (DataError, 400),
    (FormatError, 500),
    (OpenClaraError, 503),
)
GONE = 499
"""Logged where the client left before its answer; nobody receives it."""

RETRY_S = 5
SENTENCES = {
    404: "there is nothing at this address; see /docs for what there is",
    405: "this address does not take that method; see /docs for what it takes",
}


class Failure(HTTPException):
    """A refusal with its status.

    It is starlette's exception, for the framework passes only that on while it reads a body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        close: bool = False,
    ) -> None:
        headers = {}
        if retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(retry_after_s)))
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if close:
            # What is left of the body would be read as the next request.
            headers["connection"] = "close"
        super().__init__(status, message, headers)
        self.param = param
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        """As clients receive it."""
        default = "invalid_request_error" if self.status_code < 500 else "server_error"
        kind = TYPES.get(self.status_code, default)
        error = {"message": self.detail, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Reply:
        """As a response."""
        return Reply(self.body, self.status_code, self.headers)


class Reply(Response):
    """JSON of any text, also of one that holds half a character: such a document can be stored."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(to_json(content), status_code, headers)


def to_json(content: Any) -> bytes:
    """JSON in UTF-8; lone surrogates, which it cannot hold, as escapes."""
    try:
        return json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except UnicodeEncodeError:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def failure(error: Exception, cleaned: Callable[[str], str]) -> Failure:
    """The refusal that an exception comes to.

    Args:
        error: What was raised.
        cleaned: Takes the paths of this machine out of a sentence of the library.
    """
    if isinstance(error, Failure):
        return error
    if isinstance(error, HTTPException):
        return Failure(
            error.status_code, SENTENCES.get(error.status_code, "the request is malformed")
        )
    for kind, status in STATUSES:
        if isinstance(error, kind):
            retry_after_s = error.retry_after_s if isinstance(error, Busy) else None
            if isinstance(error, IndexBusy):
                retry_after_s = RETRY_S
            return Failure(status, cleaned(str(error)), retry_after_s=retry_after_s)
    return Failure(500, "the service failed; its log has more under the id of this request")


def invalid(errors: Sequence[Mapping[str, Any]]) -> Failure:
    """The refusal of a body or a parameter that does not validate, naming the first field."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    # The location of a broken JSON text is a number of characters, of no use as a field.
    if first["type"] == "json_invalid":
        return Failure(400, "the body is not valid JSON; send a JSON object")
    if not place:
        return Failure(400, "the body must be a JSON object with content-type application/json")
    name = ".".join(place)
    if first["type"] == "missing":
        return Failure(400, f"{name} is missing", param=name)
    reason = str(first["msg"]).removeprefix("Value error, ")
    return Failure(400, f"{name}: {reason[:1].lower()}{reason[1:]}", param=name)
