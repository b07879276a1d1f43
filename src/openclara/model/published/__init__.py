"""Checkpoints that other programs published: read, and for one family written back.

`layout` says what a family of checkpoints must tell about itself; `clara` and `pisco` are two
families; a new one is one more such module and its entry in `LAYOUTS` (`docs/published.md`).
"""

from __future__ import annotations

from openclara.model.published.clara import CLARA
from openclara.model.published.pisco import PISCO

LAYOUTS = (CLARA, PISCO)
"""Every family known here."""

__all__ = ["CLARA", "LAYOUTS", "PISCO"]
