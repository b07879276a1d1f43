"""Filters such as `year>=2020` as SQL, with every word of the user's bound as a parameter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openclara.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("id", "title", "source")
"""Fields of every document; any other name is looked up in the metadata."""

ORDERINGS = ("<", "<=", ">", ">=")
LITERALS = ("true", "false", "null")
FORM = (
    "a filter is FIELD, one of = != < <= > >= ~ and a value, "
    "such as lang=en, year>=2020 or source~wiki"
)

_FILTER = re.compile(
    r"\s*(?P<field>[^\s<>=!~][^<>=!~]*?)\s*(?P<operator>[<>!]=|[<>=~])\s*(?P<value>.*?)\s*", re.S
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on a document.

    `=` and `!=` compare numbers with numbers and text with text, and know `true`, `false` and
    `null`; `!=` also passes documents without the field. The orderings compare with numbers if the
    value is one, else with text. `~` asks for a part of a text, in the same case. A value in double
    quotes is text.

    Attributes:
        field: `id`, `title`, `source` or a metadata key.
        operator: `=`, `!=`, `<`, `<=`, `>`, `>=` or `~`.
        value: What to compare with, as typed.
    """

    field: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read one filter.

        Raises:
            ConfigError: It has no field or no operator.
        """
        # A lone surrogate cannot be bound, and cannot be in a stored title either.
        match = _FILTER.fullmatch(text.encode(errors="replace").decode())
        if match is None:
            raise ConfigError(f"the filter {text!r} cannot be read: {FORM}")
        return cls(match["field"], match["operator"], match["value"])

    @property
    def number(self) -> int | float | None:
        """The value as a number, if it is one."""
        if not _NUMBER.fullmatch(self.value):
            return None
        exact = int(self.value) if re.fullmatch(r"[+-]?\d+", self.value) else float(self.value)
        return exact if abs(exact) <= _LARGEST_INTEGER else float(exact)

    @property
    def text(self) -> str:
        """The value as text, without its quotes."""
        quoted = len(self.value) > 1 and self.value[0] == self.value[-1] == '"'
        return self.value[1:-1] if quoted else self.value

    def sql(self) -> tuple[str, list[str | int | float]]:
        """An expression over the table `documents`, and its parameters."""
        if self.field in COLUMNS:
            return self._column_sql(f"documents.{self.field}")
        test, parameters = self._entry_sql()
        # json_each compares decoded keys; a json_extract path would compare the escaped ones.
        exists = (
            "EXISTS (SELECT 1 FROM json_each(documents.metadata) AS entry "
            f"WHERE entry.key = ? AND ({test}))"
        )
        return ("NOT " if self.operator == "!=" else "") + exists, [self.field, *parameters]

    def _column_sql(self, column: str) -> tuple[str, list[str | int | float]]:
        if self.operator == "~":
            return f"instr({column}, ?) > 0", [self.text]
        return f"{column} {self.operator} ?", [self.text]

    def _entry_sql(self) -> tuple[str, list[str | int | float]]:
        is_number = "entry.type IN ('integer', 'real') AND entry.value"
        is_text = "entry.type = 'text' AND entry.value"
        if self.operator == "~":
            return "entry.type = 'text' AND instr(entry.value, ?) > 0", [self.text]
        if self.operator in ORDERINGS:
            if self.number is not None:
                return f"{is_number} {self.operator} ?", [self.number]
            return f"{is_text} {self.operator} ?", [self.text]
        tests, parameters = [f"({is_text} = ?)"], [self.text]
        if self.number is not None:
            return f"{tests[0]} OR ({is_number} = ?)", [*parameters, self.number]
        if self.value in LITERALS:
            tests.append("(entry.type = ?)")
            parameters.append(self.value)
        return " OR ".join(tests), [*parameters]


def condition(where: Sequence[str]) -> tuple[str, list[str | int | float]]:
    """All filters as one SQL expression over the table `documents`.

    Args:
        where: Filters that must all hold; none holds for every document.

    Returns:
        The expression and its parameters in order.

    Raises:
        ConfigError: A filter cannot be read.
    """
    if isinstance(where, str):
        raise ConfigError(f"filters come in a list, such as [{where!r}]")
    parts = [Filter.parse(text).sql() for text in where]
    parameters = [value for _, values in parts for value in values]
    return " AND ".join(f"({sql})" for sql, _ in parts) or "1", parameters
