"""When the coarse stage is used, and how many chunks it nominates."""

from __future__ import annotations

from dataclasses import dataclass

from openclara.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Coarse:
    """Settings of the coarse stage.

    Attributes:
        from_chunks: Chunks an index must hold before it is made and used; None for never.
        candidates: Chunks that are nominated and then scored exactly. An index that holds no more
            is searched exactly.

    Raises:
        ConfigError: A number is out of range.
    """

    from_chunks: int | None = 20_000
    candidates: int = 2048

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ConfigError(f"candidates is {self.candidates}: nominate at least one")
        if self.from_chunks is not None and self.from_chunks < 0:
            raise ConfigError(f"from_chunks is {self.from_chunks}: use 0 or more, or None")


EXACT = Coarse(from_chunks=None)
"""Every chunk is scored, whatever the size."""
