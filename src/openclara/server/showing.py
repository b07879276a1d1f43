"""How much of a text that is still being written may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

INCOMPLETE = "\ufffd"
"""What the bytes of a character that is not whole yet are decoded to."""


class Shown:
    """A growing text, handed out in pieces that never have to be taken back.

    Held back are the bytes of a character until it is whole, and whatever may become a stop text.
    Of several stop texts the one that is complete first counts, so the result does not depend on
    how the text was cut into tokens.

    Args:
        stop: Texts that end it; they are never shown. Empty ones are passed over.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [text for text in stop if text]
        self._n_shown = 0
        self.stopped = False
        """Whether a stop text was found: nothing more will come."""

    def more(self, text: str, *, complete: bool = False) -> str:
        """What can be shown beyond what was.

        Args:
            text: All that is written so far.
            complete: Whether nothing more will be written, so that nothing is held back.
        """
        if self.stopped:
            return ""
        if not complete:
            text = text.rstrip(INCOMPLETE)
        starts = [(text.find(stop, self._n_shown), stop) for stop in self._stop]
        found = [(at + len(stop), at) for at, stop in starts if at >= 0]
        if found:
            self.stopped = True
            end = min(found)[1]
        else:
            end = len(text) - (0 if complete else self._n_held(text))
        piece = text[self._n_shown : end]
        self._n_shown = max(self._n_shown, end)
        return piece

    def _n_held(self, text: str) -> int:
        """Characters at the end that a stop text may begin with."""
        longest = max(map(len, self._stop), default=1) - 1
        for n in range(min(longest, len(text) - self._n_shown), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self._stop):
                return n
        return 0
