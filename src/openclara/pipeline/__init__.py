"""A trained model in use: load, compress, search, ask, stream."""

from __future__ import annotations

from openclara.pipeline.answering import AnswerStream
from openclara.pipeline.clara import Clara
from openclara.pipeline.compressing import Compressing

__all__ = ["AnswerStream", "Clara", "Compressing"]
