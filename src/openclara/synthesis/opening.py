"""A recipe's teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openclara.synthesis.teachers.building import (
    make_endpoint_teacher,
    make_local_teacher,
    make_rules_teacher,
)

if TYPE_CHECKING:
    from openclara.config import TeacherConfig
    from openclara.synthesis.tasks import Teacher


def make_teacher(recipe: TeacherConfig) -> Teacher:
    """The teacher that a recipe describes; nothing is asked or loaded yet.

    Raises:
        TeacherError: The address of an endpoint is none.
        ModelError: A local base is not there.
    """
    if recipe.kind == "openai":
        return make_endpoint_teacher(
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
            budget_tokens=recipe.budget_tokens,
            budget_money=recipe.budget_money,
            price_prompt=recipe.price_prompt,
            price_completion=recipe.price_completion,
            extra_body=recipe.extra_body,
        )
    if recipe.kind == "local":
        return make_local_teacher(
            recipe.base,
            device=recipe.device,
            precision=recipe.precision,
            batch_size=recipe.batch_size,
            temperature=recipe.temperature,
            seed=recipe.seed,
            max_tokens=recipe.max_new_tokens,
        )
    return make_rules_teacher()
