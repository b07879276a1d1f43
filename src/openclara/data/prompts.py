"""Every prompt of the project, as plain strings with named slots."""

from __future__ import annotations

from typing import Final

SYSTEM: Final = "Answer from the background, as briefly as possible."
"""System turn when the generator is given latents or passages."""

SYSTEM_CLOSED: Final = "Answer as briefly as possible."
"""System turn when it is given nothing: the closed-book baseline."""

PARAPHRASE_REQUEST: Final = "Say the background again in other words."
"""What stands in place of a question when the target is a paraphrase (paper, section 3.1)."""

REPEAT_REQUEST: Final = "Repeat the background word for word."
"""What stands in place of a question when the target is the passage itself."""

# Marks that user text cannot contain after `Chat.render` has taken it out of the template.
BACKGROUND_MARK: Final = "\ue000background\ue000"
QUESTION_MARK: Final = "\ue000question\ue000"
ANSWER_MARK: Final = "\ue000answer\ue000"

USER_WITH_BACKGROUND: Final = f"Background:\n{BACKGROUND_MARK}\n\nQuestion:\n{QUESTION_MARK}"
USER_QUESTION_ONLY: Final = f"Question:\n{QUESTION_MARK}"
