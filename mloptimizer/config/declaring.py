"""What a setting declares beside its default: its group, what it belongs to, and whether it is common and told."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

from pydantic import Field

# What a setting can belong to: to exactly one of these. What follows from it is derived, and nothing else is kept.
BELONGS_TO: Mapping[str, str] = {
    "identity": "The study's values are comparable only while it stays, so it cannot change when a study continues.",
    "training": "Changes what a model learns from its images. A tuned plan or a checkpoint counts for one value only.",
    "speed": "Changes how fast a model trains, on what and with how much memory, not what it learns at the same global "
    "batch size. A tuned plan counts for one value only.",
    "run": "Changes no training: it says which trainings there are, how long they last, where they run, and when the "
    "search stops.",
}


@dataclass(frozen=True)
class Group:
    """Declares the settings of one group, each by what it belongs to.

    ``common``: it is one of the few that people need. ``told``: a study that continues says when it has changed; it
    need not where that is plain to see.
    """

    title: str
    told: bool = True

    def _declare(
        self, belongs_to: str, default: object, description: str, *, common: bool = False, told: bool = True
    ) -> Any:
        facts: Any = {"group": self.title, "belongs_to": belongs_to, "common": common, "told": told and self.told}
        return Field(default, description=description, json_schema_extra=facts)

    identity = partialmethod(_declare, "identity")
    training = partialmethod(_declare, "training")
    speed = partialmethod(_declare, "speed")
    run = partialmethod(_declare, "run")
