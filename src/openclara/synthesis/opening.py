"""A recipe's teacher, opened. Each kind is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openclara.config import TeacherConfig
    from openclara.synthesis.tasks import Teacher
    from openclara.synthesis.teachers.budget import Budget


def make_teacher(recipe: TeacherConfig, *, budget: Budget | None = None) -> Teacher:
    """The teacher that a recipe describes; nothing is asked or loaded yet.

    Args:
        recipe: Its kind and how to reach it.
        budget: What an endpoint may spend, where that is not for this teacher alone.

    Raises:
        TeacherError: The address of an endpoint is none.
        ModelError: A local base is not there.
    """
    if recipe.kind == "openai":
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
            budget=budget or Budget(recipe.budget_tokens, recipe.budget_money),
            prices=Prices(recipe.price_prompt, recipe.price_completion),
            extra_body=recipe.extra_body,
        )
    if recipe.kind == "local":
        from openclara.synthesis.teachers.local import LocalTeacher

        return LocalTeacher(
            recipe.base,
            device=recipe.device,
            precision=recipe.precision,
            batch_size=recipe.batch_size,
            temperature=recipe.temperature,
            seed=recipe.seed,
            max_tokens=recipe.max_new_tokens,
        )
    from openclara.synthesis.teachers.rules import RulesTeacher

    return RulesTeacher()
