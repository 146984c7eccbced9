"""What a person asks of a search, and what remains of it after all checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Params, Slot
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH, Grid
from mloptimizer.spaces.space_files import SearchSpace
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.earlier import EarlierStudy


@dataclass(frozen=True)
class SearchRequest:
    """What a person asks of a search; the rest comes from the resumed study, or the workspace."""

    workspace: Workspace
    dataset: str | None = None
    study: str | None = None
    assignments: Mapping[str, object] = field(default_factory=dict)  # settings stated for this search
    explore_only: bool = False
    profile_trial: int | None = None  # number of the exploration trial to profile for TensorBoard
    more_trials: int = 0  # to explore in addition to those of the study
    warm_start: str = ""  # STUDY or STUDY@STORAGE, whose trials the study learns from
    enqueue: Path | None = None  # file with configurations to try first


@dataclass(frozen=True)
class PreparedSearch:
    """A search whose settings, names and spaces have been checked."""

    name: str
    dataset: str
    settings: Settings
    seed: int
    spaces: Sequence[SearchSpace]
    continued: bool = False
    fingerprint: str = ""  # of the data of a resumed study; empty: unknown, or a new study
    tuned: Mapping[str, object] | None = (
        None  # values that tuning chose for a resumed study, by setting; None: none yet
    )
    notes: tuple[str, ...] = ()  # what changes in a resumed study, and what is ignored
    earlier: EarlierStudy | None = None  # whose trials the study learns from
    configurations: tuple[Params, ...] = ()  # to try first, as the person wrote them
    grid: Grid = field(default_factory=lambda: Grid(WORLD_G_PER_KWH, ""))  # that powers the machines
    largest_slot: Slot = field(default_factory=lambda: Slot("this machine"))  # with as many GPUs as a trial may get
