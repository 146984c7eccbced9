"""What a setting declares beside its default: its group, what it belongs to, and whether it is common and told."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

from pydantic import Field

BELONGS_TO: Mapping[str, str] = {
    "identity": "Of the study: its values can be compared only while it stays, so it cannot change when the study "
    "continues.",
    "training": "Changes what a training computes: its weights after an epoch. It may change for the trials to come. A "
    "tuned plan or a checkpoint counts for one value only.",
    "speed": "Changes how fast a training is, on what and with how much memory; at the same global batch size it "
    "learns the same. It may change for the trials to come. A tuned plan counts for one value only.",
    "run": "Of a run of the search: which trainings there are, for how many epochs, where they run, and when the "
    "search stops. It may change for the trials to come; budgets are stated for each run anew.",
}
"""What a setting belongs to, exactly one of these; lists of settings elsewhere are derived from what they declare."""


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
