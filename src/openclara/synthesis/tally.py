"""What a synthesis brought, counted passage by passage in bounded memory."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openclara.synthesis.document import TOO_LITTLE_COVERED, total
from openclara.synthesis.tasks import Spent

if TYPE_CHECKING:
    from openclara.synthesis.composed import Composed, Rejected

N_SAMPLES = 20
N_EXAMPLES = 3
KINDS = ("simple", "complex", "paraphrase")

STEPS = (
    "asked",
    "fit to ask",
    "found in the passage",
    "judged right",
    "answered alike again",
    "kept",
)
"""What a pair passes one after the other; of passages with too little covered none is kept."""

PARAPHRASE_STEPS = ("tried", "keeps the facts, not the form", "judged right")

_FALLS_AT = {
    "question too short": 1,
    "question too long": 1,
    "question points at its text": 1,
    "question asked before": 1,
    "judge refused the pair": 3,
    "judge gave no verdict": 3,
    "teacher gave no second answer": 4,
    "second answer differs": 4,
    TOO_LITTLE_COVERED: 5,
}
"""The step that an item with this reason did not pass; all other reasons of pairs belong to 2."""


@dataclass(slots=True)
class Tally:
    """Counts over passages.

    Attributes:
        seed: Draws the samples.
        target: Coverage that was aimed at.
        passages: Passages with results.
        held_out: Of them, those kept from training.
        without: Those without any accepted pair.
        accepted: Accepted items of each kind.
        rejected: Rejected items of each kind and reason.
        examples: A few of these.
        coverage: Passages by tenths of their coverage, from [0, 0.1) to exactly 1.
        coverage_sum: Sum of coverages.
        reached: Passages whose coverage is the target or more.
        rounds: Passages by rounds of questions.
        tasks: Tasks by kind.
        failed: Tasks without a usable reply.
        spent: What all tasks cost.
    """

    seed: int
    target: float
    passages: int = 0
    held_out: int = 0
    without: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[Rejected]] = field(default_factory=dict)
    coverage: Counter[int] = field(default_factory=Counter)
    coverage_sum: float = 0.0
    reached: int = 0
    rounds: Counter[int] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    spent: Spent = field(default_factory=Spent)
    _drawn: list[tuple[int, int, Composed]] = field(default_factory=list)

    def add(self, composed: Composed) -> None:
        """Count a passage."""
        self.passages += 1
        self.held_out += composed.passage.held_out
        self.without += not composed.pairs
        self.accepted.update(pair.kind for pair in composed.pairs)
        self.accepted["paraphrase"] += composed.paraphrase is not None
        for item in composed.rejected:
            key = item.what, item.reason
            self.rejected[key] += 1
            kept = self.examples.setdefault(key, [])
            if len(kept) < N_EXAMPLES:
                kept.append(item)
        self.coverage[int(composed.coverage * 10)] += 1
        self.coverage_sum += composed.coverage
        self.reached += composed.coverage >= self.target
        self.rounds[composed.rounds] += 1
        self.tasks.update(composed.tasks or {})
        self.failed += composed.n_failed
        self.spent = total([self.spent, composed.spent])
        self._draw(composed)

    def _draw(self, composed: Composed) -> None:
        """Keep the passages with the smallest hashes: a fair sample, the same every time."""
        if not composed.pairs and composed.paraphrase is None:
            return
        text = f"{self.seed} sample {composed.passage.full_text}"
        at = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        item = (-at, self.passages, composed)
        if len(self._drawn) < N_SAMPLES:
            heapq.heappush(self._drawn, item)
        else:
            heapq.heappushpop(self._drawn, item)

    def samples(self) -> list[Composed]:
        """Random passages with something accepted, in their order."""
        return [one for _, _, one in sorted(self._drawn, key=lambda item: item[1])]

    def passing(self, kind: str) -> list[int]:
        """How many items of a kind passed each step of `STEPS` or `PARAPHRASE_STEPS`."""
        fell: Counter[int] = Counter()
        for (what, reason), number in self.rejected.items():
            if what == kind:
                fell[self._step(kind, reason)] += number
        steps = PARAPHRASE_STEPS if kind == "paraphrase" else STEPS
        left = self.accepted[kind] + sum(fell.values())
        passed = []
        for step in range(len(steps)):
            left -= fell[step]
            passed.append(left)
        return passed

    @staticmethod
    def _step(kind: str, reason: str) -> int:
        if kind == "paraphrase":
            return 2 if reason.startswith("judge") else 1
        return _FALLS_AT.get(reason, 2)
