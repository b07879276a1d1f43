"""A recipe's teacher, opened. Each kind is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openclara.config import TeacherConfig
    from openclara.synthesis.tasks import Teacher


def make_teacher(recipe: TeacherConfig) -> Teacher:
    raise NotImplementedError
