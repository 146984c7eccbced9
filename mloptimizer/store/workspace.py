"""The folder in which a person's studies live; the only builder of paths in it."""

import re
from pathlib import Path

from mloptimizer.core.nouns import Phase
from mloptimizer.core.study_names import check_study_name


class Workspace:
    """Paths of a workspace; asking for one creates nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings_file = root / "system_parameters.py"
        self.search_spaces = root / "search_spaces"
        self.metrics = root / "metrics_data"
        self.hardware_logs = root / "hardware_performance_logs"
        self.journal = self.metrics / "studies.journal"
        self.tuning_file = self.metrics / "tuning.json"
        self.strategy_log = root / "debug_strategy.log"

    def study(self, study: str) -> Path:
        return self.metrics / check_study_name(study)

    def folders(self, study: str) -> tuple[Path, Path]:
        """Return all that the study stores, except for the journal, which studies share."""
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
        """Return the file that lists what the current search is running; missing if there is none."""
        return self.study(study) / "running.json"

    def orders(self, study: str) -> Path:
        """Return the folder of orders from other terminals to the running search."""
        return self.study(study) / "orders"

    def cache(self, study: str) -> Path:
        """Return the folder that the trials share, which can be rebuilt: compiled programs, measured batch sizes."""
        return self.study(study) / "cache"

    def space_snapshot(self, study: str, space: str) -> Path:
        return self.study(study) / "search_spaces" / f"{space}.py"

    def test_evaluation_file(self, study: str, name: str = "test_evaluation") -> Path:
        """Return the file of evaluations on the test set; up to version 0.1 its name was verdict.json."""
        return self.study(study) / f"{name}.json"

    def trial(self, study: str, number: int, phase: Phase = Phase.EXPLORATION) -> Path:
        return self.study(study) / _stem(number, phase)

    def list_trainings(self, study: str, phase: Phase, file: str) -> list[int]:
        """Return the sorted numbers of the phase's trials that have such a file, ignoring a person's own copies."""
        prefix = _stem(0, phase).removesuffix("00000")
        tails = (path.parent.name.removeprefix(prefix) for path in self.study(study).glob(f"{prefix}*/{file}"))
        return sorted(int(tail) for tail in tails if tail.isdecimal())

    def profile(self, study: str, number: int) -> Path:
        return self.trial(study, number) / "profile"

    def hardware_log(self, study: str, number: int, phase: Phase = Phase.EXPLORATION) -> Path:
        return self.hardware_logs / check_study_name(study) / f"{_stem(number, phase)}.csv"


def _stem(number: int, phase: Phase) -> str:
    return f"{'trial' if phase is Phase.EXPLORATION else phase}_{number:05d}"
