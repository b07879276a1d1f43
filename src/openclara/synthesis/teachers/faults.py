"""What an endpoint's failure means: try again, ask differently, leave the task, or stop."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datetime import datetime

Meaning = Literal["again", "differently", "leave", "unreachable", "stop"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One failed request.

    Attributes:
        meaning: `again` later; `differently`, because the server knows no such field;
            `leave` this task; `unreachable`, no server there; `stop`, no task can be done.
        reason: In a few words, without anything of the document.
        says: The server's own message in lower case, to find the field it names in; never shown.
        retry_after_s: How long the server asks to wait.
        may_cost: The server may have read the prompt all the same.
    """

    meaning: Meaning
    reason: str
    says: str = ""
    retry_after_s: float | None = None
    may_cost: bool = False


_STOPS = {
    401: "refuses the API key",
    402: "asks for payment",
    403: "does not allow this key to use the model",
}
_SPENT_CODES = ("insufficient_quota", "billing_hard_limit_reached")
_PASSING = (408, 409, 425, 429)


def read_fault(error: Exception, now: datetime) -> Fault:
    """What an exception of the client means.

    Args:
        error: From a request; anything but the client's own errors is a broken body.
        now: For a time to wait that is given as a date.
    """
    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Fault("again", "no reply in time", may_cost=True)
    if isinstance(error, openai.APIStatusError):
        return _read_status(error, now)
    if isinstance(error, openai.APIConnectionError):
        # By name: the client moved from one HTTP library to its successor.
        if type(error.__cause__).__name__ in ("ConnectError", "UnsupportedProtocol", "ProxyError"):
            return Fault("unreachable", "no server there")
        return Fault("again", "the connection broke", may_cost=True)
    return Fault("again", "the reply was no completion", may_cost=True)


def _read_status(error: Any, now: datetime) -> Fault:
    status: int = error.status_code
    code = str(error.code or "")
    if status in _STOPS:
        return Fault("stop", f"{_STOPS[status]} ({status})")
    if status == 404:
        return Fault("stop", "knows no such model or path (404)")
    if status == 429 and code in _SPENT_CODES:
        return Fault("stop", "says that the account is used up (429)")
    if status in _PASSING or status >= 500:
        wait = _retry_after_s(error.response.headers.get("retry-after"), now)
        return Fault("again", f"status {status}", retry_after_s=wait)
    if status in (400, 422) and code != "context_length_exceeded":
        return Fault("differently", f"status {status}", says=str(error.message).casefold())
    return Fault("leave", f"status {status}")


def _retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds or a date, as the header may be; None for anything else."""
    if not header:
        return None
    try:
        return max(0.0, min(float(header), 1e9))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (ValueError, TypeError):
        return None
