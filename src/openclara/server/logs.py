"""What the service writes to standard error: one JSON object a line.

Who asked for what route, with what outcome, in what time; never what was asked, never a key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

LOGGER = logging.getLogger("openclara.server")


class JsonLines(logging.Formatter):
    """A record as a line of JSON; the fields of an event are in `record.fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            # Of a text of several lines only the first: the others may quote anything.
            "event": record.getMessage().strip().partition("\n")[0],
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _where(record.exc_info[1])
        return json.dumps(line)


def _where(error: BaseException) -> dict[str, object]:
    """The type of an error and where it came from; not its message, which may quote a document."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"type": type(error).__name__, "at": places[-12:]}


def event(name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log something that happened."""
    LOGGER.log(level, name, extra={"fields": fields})


def failed(name: str, error: BaseException, **fields: object) -> None:
    """Log a failure that is ours."""
    LOGGER.error(name, exc_info=error, extra={"fields": fields})


def not_cut(record: logging.LogRecord) -> bool:
    """Whether a record is more than the server's complaint that we made it stop at once."""
    error = record.exc_info[1] if record.exc_info else None
    text = record.getMessage().rstrip()
    return not (isinstance(error, asyncio.CancelledError) or text.endswith("CancelledError"))


def configure(stream: TextIO | None = None) -> None:
    """Send the log of the service, and warnings of the server below it, somewhere.

    Args:
        stream: Where; standard error if None.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(not_cut)
    for name, least in (("openclara.server", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False
