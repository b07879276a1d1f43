"""Errors a user can cause. Each message is one sentence: what happened, and what to do."""

from __future__ import annotations


class OpenClaraError(Exception):
    """Any failure the user can mend; the command line prints the sentence alone, exit code 1."""


class ConfigError(OpenClaraError):
    """A recipe, an option or an argument is wrong."""


class DataError(OpenClaraError):
    """A file or record cannot be read as what it should be."""


class ModelError(OpenClaraError):
    """A base model or checkpoint is missing, damaged or does not fit."""


class FormatError(OpenClaraError):
    """Something on disk is damaged, or was written in another format."""


class IndexMismatch(OpenClaraError):  # noqa: N818 - reads as the sentence it is
    """The index was made by another model or with other settings."""


class IndexBusy(OpenClaraError):  # noqa: N818 - reads as the sentence it is
    """Another process is writing to the index."""


class Busy(OpenClaraError):  # noqa: N818 - reads as the sentence it is
    """A service has no room for another question now.

    Attributes:
        retry_after_s: When to try again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TimedOut(OpenClaraError):  # noqa: N818 - reads as the sentence it is
    """A question took longer than it may."""


class TeacherError(OpenClaraError):
    """A teacher can do no task any more: budget spent, key refused, endpoint unknown."""
