"""What a setting declares beside its default: group, what it belongs to, and whether it is common and announced."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

from pydantic import Field

BELONGS_TO: Mapping[str, str] = {
    "identity": "Part of the study: its trials are comparable only under one value, so it cannot change on resume.",
    "training": "Changes what a training computes: its weights after an epoch. It may change for later trials. A tuned "
    "plan or a checkpoint is valid for one value only.",
    "speed": "Changes where and how fast a training runs and how much memory it takes; at the same global batch size "
    "it learns the same. It may change for later trials. A tuned plan is valid for one value only.",
    "run": "Part of one run of the search: which trainings there are, for how many epochs, where they run, and when "
    "the search stops. It may change for later trials; budgets count for one run, so state them each time.",
}
"""A setting belongs to exactly one of these; lists of settings elsewhere are derived from it."""


@dataclass(frozen=True)
class Group:
    """Declares the settings of one group, each by what it belongs to.

    ``common``: it is one of the few that most people need. ``announced``: a study that continues announces its change.
    """

    title: str
    announced: bool = True

    def _declare(
        self, belongs_to: str, default: object, description: str, *, common: bool = False, announced: bool = True
    ) -> Any:
        facts: Any = {"group": self.title, "belongs_to": belongs_to, "common": common}
        facts["announced"] = announced and self.announced
        return Field(default, description=description, json_schema_extra=facts)

    identity = partialmethod(_declare, "identity")
    training = partialmethod(_declare, "training")
    speed = partialmethod(_declare, "speed")
    run = partialmethod(_declare, "run")
