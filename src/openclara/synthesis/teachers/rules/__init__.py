"""A teacher without a model: rules on the forms of English sentences, to begin training with."""

from openclara.synthesis.teachers.rules.teacher import RulesTeacher

__all__ = ["RulesTeacher"]
