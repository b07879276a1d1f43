"""What a service is told once, when it starts: its limits and where its things are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Rewrite = Literal["last", "conversation"]
"""What a chat searches for: its last question as it stands, or with the names of earlier turns."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one request may ask for.

    Attributes:
        body_bytes: Of any body but an upload.
        upload_bytes: Of an upload, all its files together.
        upload_files: Files of one upload.
        unpacked_bytes: Of one uploaded file that is compressed, once it is unpacked.
        question_chars: Of a question with all that stands around it.
        text_chars: Of one text to embed, and of an id, a title or a filter.
        texts: To embed or compress, and documents of one JSON body.
        k: Stretches to answer from.
        max_tokens: Of an answer.
        prompts: Of one completion request.
        jobs_waiting: Beyond it new jobs are refused.
        inspected: Stretches that one request looks into.
        header_s: From a connection, or from the first byte of a request, to the end of its headers.
        idle_s: Between two parts of a body.
        body_s: For a whole body.
        write_s: For a client to take what is sent.
        connections: Open at once.
    """

    body_bytes: int = 16 * 2**20
    upload_bytes: int = 64 * 2**20
    upload_files: int = 1000
    unpacked_bytes: int = 512 * 2**20
    question_chars: int = 16_000
    text_chars: int = 200_000
    texts: int = 1024
    k: int = 50
    max_tokens: int = 1024
    prompts: int = 16
    jobs_waiting: int = 16
    inspected: int = 8
    header_s: float = 10.0
    idle_s: float = 15.0
    body_s: float = 300.0
    write_s: float = 30.0
    connections: int = 512


@dataclass(frozen=True, slots=True)
class Settings:
    """How a service behaves.

    Attributes:
        limits: The most that one request may ask for.
        keys: File of the API keys; None lets everybody in who reaches the address.
        hosts: Names under which a service without keys may be addressed; others are refused, so
            that a web page cannot reach it through a name of its own. Empty accepts every name.
        origins: Web pages of other origins that may call it.
        rewrite: What a chat searches for unless it says.
        state: Folder for what jobs remember and for uploads under way; None is a temporary one,
            and jobs are forgotten with the process.
        drain_s: How long running requests may take to finish when the service stops.
    """

    limits: Limits = Limits()
    keys: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    rewrite: Rewrite = "last"
    state: Path | None = None
    drain_s: float = 30.0
