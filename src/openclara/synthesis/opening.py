"""A recipe's teacher, opened. Each kind is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openclara.config import OpenAITeacher, TeacherConfig
    from openclara.synthesis.tasks import Teacher


def make_teacher(recipe: TeacherConfig) -> Teacher:
    """The teacher that a recipe describes.

    Raises:
        TeacherError: The address of an endpoint is none.
        ModelError: A local base is missing or does not fit.
    """
    if recipe.kind == "openai":
        return _endpoint(recipe)
    if recipe.kind == "local":
        from openclara.synthesis.teachers.local import LocalTeacher

        return LocalTeacher(
            recipe.base,
            batch_size=recipe.batch_size,
            max_new_tokens=recipe.max_new_tokens,
        )
    from openclara.synthesis.teachers.rules.teacher import RulesTeacher

    return RulesTeacher()


def _endpoint(recipe: OpenAITeacher) -> Teacher:
    from openclara.synthesis.teachers.budget import Budget, Prices
    from openclara.synthesis.teachers.endpoint import EndpointTeacher

    return EndpointTeacher(
        recipe.model,
        base_url=recipe.base_url,
        key_variable=recipe.api_key_env,
        concurrency=recipe.concurrency,
        requests_per_minute=recipe.requests_per_minute,
        tokens_per_minute=recipe.tokens_per_minute,
        attempts=recipe.max_attempts,
        timeout_s=recipe.timeout_s,
        temperature=recipe.temperature,
        seed=recipe.seed,
        max_tokens=recipe.max_new_tokens,
        budget=Budget(recipe.budget_tokens, recipe.budget_money),
        prices=Prices(recipe.price_prompt, recipe.price_completion),
        extra_body=recipe.extra_body,
    )
