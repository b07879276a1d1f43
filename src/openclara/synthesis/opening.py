"""A recipe's teacher, opened. Each kind is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openclara.config import TeacherConfig
    from openclara.synthesis.tasks import Teacher


def make_teacher(recipe: TeacherConfig) -> Teacher:
    """The teacher that a recipe names.

    Raises:
        TeacherError: The endpoint's address is none, or its key is missing.
        ModelError: The base or the device of a local one is not there.
    """
    match recipe.kind:
        case "rules":
            from openclara.synthesis.teachers.building import make_rules_teacher

            return make_rules_teacher()
        case "local":
            from openclara.synthesis.teachers.building import make_local_teacher

            return make_local_teacher(
                recipe.base,
                device=recipe.device,
                precision=recipe.precision,
                batch_size=recipe.batch_size,
                temperature=recipe.temperature,
                seed=recipe.seed,
                max_tokens=recipe.max_new_tokens,
            )
        case "openai":
            from openclara.synthesis.teachers.building import make_endpoint_teacher

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
            )
