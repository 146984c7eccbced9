"""The folder in which a person's studies live; the only builder of paths in it."""

import re
from dataclasses import dataclass
from pathlib import Path

from mloptimizer.core.nouns import Phase
from mloptimizer.core.study_names import check_study_name


@dataclass(frozen=True)
class Workspace:
    """Paths of a workspace; nothing is created by asking for one."""

    root: Path

    @property
    def settings_file(self) -> Path:
        return self.root / "system_parameters.py"

    @property
    def search_spaces(self) -> Path:
        return self.root / "search_spaces"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics_data"

    @property
    def hardware_logs(self) -> Path:
        return self.root / "hardware_performance_logs"

    @property
    def journal(self) -> Path:
        return self.metrics / "studies.journal"

    @property
    def tuning_file(self) -> Path:
        return self.metrics / "tuning.json"

    @property
    def strategy_log(self) -> Path:
        return self.root / "debug_strategy.log"

    def study(self, study: str) -> Path:
        return self.metrics / check_study_name(study)

    def folders(self, study: str) -> tuple[Path, Path]:
        """Everything that the study takes of the disk, but the journal, which studies share."""
        return self.study(study), self.hardware_logs / check_study_name(study)

    def study_file(self, study: str) -> Path:
        return self.study(study) / "study.json"

    def bench(self, dataset: str) -> Path:
        return self.root / f"bench_{dataset}"

    def machine_bench(self, host: str) -> Path:
        return self.root / f"machine_{re.sub(r'[^A-Za-z0-9_.-]', '_', host)}.json"

    def driver_lock(self, study: str) -> Path:
        return self.study(study) / "driver.lock"

    def running_file(self, study: str) -> Path:
        """What the search that is under way runs; missing where there is none."""
        return self.study(study) / "running.json"

    def orders(self, study: str) -> Path:
        """What other terminals tell the search that runs."""
        return self.study(study) / "orders"

    def cache(self, study: str) -> Path:
        """What the trials of the study share and could make again: compiled programs, measured batches."""
        return self.study(study) / "cache"

    def space_snapshot(self, study: str, space: str) -> Path:
        return self.study(study) / "search_spaces" / f"{space}.py"

    def test_evaluation_file(self, study: str, name: str = "test_evaluation") -> Path:
        """Up to version 0.1 it was called verdict.json."""
        return self.study(study) / f"{name}.json"

    def trial(self, study: str, number: int, phase: Phase = Phase.EXPLORATION) -> Path:
        return self.study(study) / _stem(number, phase)

    def list_trainings(self, study: str, phase: Phase, file: str) -> list[int]:
        """Return, sorted, the numbers of the phase's trials that have such a file; a person's own copies have none."""
        prefix = _stem(0, phase).removesuffix("00000")
        tails = (path.parent.name.removeprefix(prefix) for path in self.study(study).glob(f"{prefix}*/{file}"))
        return sorted(int(tail) for tail in tails if tail.isdecimal())

    def profile(self, study: str, number: int) -> Path:
        return self.trial(study, number) / "profile"

    def hardware_log(self, study: str, number: int, phase: Phase = Phase.EXPLORATION) -> Path:
        return self.hardware_logs / check_study_name(study) / f"{_stem(number, phase)}.csv"


def _stem(number: int, phase: Phase) -> str:
    return f"{'trial' if phase is Phase.EXPLORATION else phase}_{number:05d}"
