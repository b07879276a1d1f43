"""How an endpoint wants to be asked: which fields of a request it knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from openclara.synthesis.teachers.prompts import Request

FORMATS: Final = ("json_schema", "json_object", "text")
"""Ways to get JSON, from the surest to none at all, where it is found in the text."""


@dataclass(frozen=True, slots=True)
class Manner:
    """Which fields are sent. Every change leaves something out, so there is an end to changing.

    Attributes:
        format: One of `FORMATS`.
        limit: Name of the field for the most tokens of a reply.
        without: Optional fields that are left out.
    """

    format: str = FORMATS[0]
    limit: str = "max_tokens"
    without: frozenset[str] = frozenset()

    @property
    def changes(self) -> int:
        """How far it is from what is tried first."""
        return FORMATS.index(self.format) + (self.limit != "max_tokens") + len(self.without)

    def changed(self, says: str) -> Manner | None:
        """Another manner, after a server has called a request bad.

        Args:
            says: Its message in lower case.

        Returns:
            What to try next; None where everything was tried.
        """
        if "max_completion_tokens" in says and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        for field in ("temperature", "seed"):
            if field in says and field not in self.without:
                return replace(self, without=self.without | {field})
        at = FORMATS.index(self.format) + 1
        return replace(self, format=FORMATS[at]) if at < len(FORMATS) else None

    def fields(self, request: Request, *, temperature: float, seed: int, most: int) -> Any:
        """Fields of the call, as the client takes them, without the model.

        Args:
            request: What to ask.
            temperature: Of sampling.
            seed: Of sampling.
            most: Most tokens of the reply.
        """
        fields: dict[str, Any] = {
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.user},
            ],
            self.limit: most,
            "temperature": temperature,
            "seed": seed,
        }
        if self.format == "json_object":
            fields["response_format"] = {"type": "json_object"}
        if self.format == "json_schema":
            schema = {"name": request.name, "strict": True, "schema": request.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in fields.items() if name not in self.without}
