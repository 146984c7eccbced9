"""Shows what slows the trials of a study down, with the evidence and the settings to change.

Everything is read from the files of the workspace; a log that cannot be read gets a line and hides no other.
"""

from collections.abc import Iterator, Mapping
from math import nan

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.nouns import Phase
from mloptimizer.core.words import counted, read_time
from mloptimizer.hardware.analysis.diagnosis import IDLE_BETWEEN, RULES, Finding, describe_change, find, present_values
from mloptimizer.hardware.analysis.evidence import gather_evidence
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.reports.formatting import is_number
from mloptimizer.reports.model.standings import StudyRecord, read_study_record
from mloptimizer.reports.terminal.hardware_table import list_logs, no_logs
from mloptimizer.store.metrics_store import TrialRecord
from mloptimizer.store.workspace import Workspace

_NOTHING = " that a setting could change: no rule of the table in docs/hardware.md applies."
_FEWEST_TRAININGS = 5  # in fewer, the one import of TensorFlow weighs most
_LONGEST_GAP_S = 300.0  # between two trials of a slot: longer ones are pauses, and the time between two searches

_Place = tuple[str, bool]
"""A slot, or the GPU of slots that share one; and whether it is shared."""


def diagnosis_report(workspace: Workspace, study: str, number: int | None = None) -> RenderableType:
    """Return the findings from the logs of a study, or of one of its trials.

    Raises:
        UsageError: there is no such study, or it has no such log.
    """
    record = read_study_record(workspace, study)
    diagnosed: list[tuple[int, Phase, list[Finding]]] = []
    damages = []
    for each, phase, training, log in list_logs(workspace, record, number):
        if log.is_file():
            try:
                diagnosed.append((each, phase, find(gather_evidence(read_trace(log)), present=_present(training))))
            except MloptimizerError as error:
                damages.append(Text(str(error)))
    if not diagnosed and not damages:
        return no_logs(study, number)
    if number is None:
        return Group(*_study_parts(record, diagnosed), *damages)
    parts: list[RenderableType] = []
    for each, phase, findings in diagnosed:
        parts.append(Text(f"Trial {each} of study {study}, {phase.words}", style="bold"))
        parts += [part for finding in findings for part in _finding_parts(finding)]
        if not findings:
            parts.append(Padding(Text(f"Nothing found{_NOTHING}"), (0, 0, 0, 2)))
    return Group(*parts, *damages)


def _present(training: TrialRecord | None) -> dict[str, str]:
    settings, choices = (training.plan.get("settings"), training.result.get("choices")) if training else ({}, {})
    return present_values(settings if isinstance(settings, Mapping) else {}, choices or {})


def _finding_parts(finding: Finding, how_often: str = "", where: str = "") -> Iterator[RenderableType]:
    rule = finding.rule
    yield Padding(Text(f"{rule.name}{how_often}: {rule.meaning}", style="bold yellow"), (0, 0, 0, 2))
    yield Padding(Text(f"evidence: {finding.evidence}{where}"), (0, 0, 0, 4))
    for change in finding.changes:
        yield Padding(Text(f"change: {describe_change(change)}"), (0, 0, 0, 4))


def _study_parts(record: StudyRecord, diagnosed: list[tuple[int, Phase, list[Finding]]]) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(f"Study {record.name}", style="bold")]
    trainings = counted(len(diagnosed), "training")
    for rule in RULES:
        found = [
            (n, phase, finding) for n, phase, findings in diagnosed for finding in findings if finding.rule is rule
        ]
        if found:
            number, phase, finding = found[0]
            parts += _finding_parts(finding, f" in {len(found)} of {trainings}", f" (trial {number}, {phase.words})")
    parts += [part for finding in _find_idle(record) for part in _finding_parts(finding)]
    if len(parts) == 1:
        parts.append(Padding(Text(f"Nothing found in {trainings}{_NOTHING}"), (0, 0, 0, 2)))
    return parts


def describe_main_finding(workspace: Workspace, study: str) -> str:
    """Return a line on what slows most of the study's trainings down, by their records; empty without records.

    Nothing is raised: the summary of the search is shown in any case.
    """
    try:
        record = read_study_record(workspace, study)
    except MloptimizerError as error:
        return f"Hardware: unknown. {error}"
    known = [summary for training in _trainings(record) if (summary := training.result.get("hardware"))]
    if not known:
        return ""
    found = [str(summary.get("findings") or "").split(", ") for summary in known]
    counts = {rule.name: sum(rule.name in names for names in found) for rule in RULES}
    name = max(counts, key=lambda each: counts[each])
    idle = _find_idle(record)
    if idle and counts[name] < len(known):
        return f"Hardware: idle between trials: {idle[0].evidence}. What to change: mloptimizer diagnose {study}"
    if counts[name]:
        often = f"{counts[name]} of {counted(len(known), 'training')}"
        return f"Hardware: {name} in {often}. Why, and what to change: mloptimizer diagnose {study}"
    return f"Hardware: nothing found that slows the trials. Their hardware metrics: mloptimizer hardware {study}"


def _find_idle(record: StudyRecord) -> list[Finding]:
    trainings = _trainings(record)
    if len(trainings) < _FEWEST_TRAININGS:
        return []
    last = trainings[-1]
    return find(measure_idle_between(record), (IDLE_BETWEEN,), _present(last))


def _trainings(record: StudyRecord) -> list[TrialRecord]:
    return [training for standing in record.standings for training in standing.trainings]


def measure_idle_between(record: StudyRecord) -> dict[str, float]:
    """Return which share of the slots' time passed between trials, or before a trial's log began.

    A trial follows the one that ended last before it began, in its own slot where the plan names one. A GPU that
    several trials share is idle only while none of them runs.
    """
    times = (time for training in _trainings(record) if (time := _begun_and_ended(training)))
    free: dict[_Place, list[float]] = {}  # when each free slot of the place became free
    idle = busy = 0.0
    for begun, ended, logged, place in sorted(times, key=lambda time: time[:2]):
        left = free.setdefault(place, [])
        if before := [end for end in left if end <= begun]:
            left.remove(max(before))
            gap = begun - max(before)
            is_shared = place[1] and len(left) >= len(before)  # another trial still runs there
            idle += gap if gap <= _LONGEST_GAP_S and logged is not None and not is_shared else 0.0
        left.append(ended)
        known = ended - begun if logged is None else logged
        idle += max(ended - begun - known, 0.0)
        busy += min(known, ended - begun)
    return {"idle_between_percent": 100 * idle / (idle + busy) if busy else nan}


def _begun_and_ended(training: TrialRecord) -> tuple[float, float, float | None, _Place] | None:
    """Return begin, end and log length (s) of the training's last attempt, and its place; None where unknown.

    With several attempts, only the beginning of the last is recorded, and the log is that of all: its length is None.
    """
    logged, slot = (training.result.get("hardware") or {}).get("duration_s"), training.plan.get("slot")
    times = read_time(training.plan.get("started_utc")), read_time(training.result.get("ended_utc"))
    begun, ended = (time.timestamp() if time else nan for time in times)
    if not is_number(logged) or not begun <= ended:
        return None
    facts = slot if isinstance(slot, Mapping) else {}
    trials = facts.get("gpu_trials")
    is_shared = isinstance(trials, int) and trials > 1
    place = str(facts.get("gpu_ids") if is_shared else facts.get("name", "")), is_shared
    return begun, ended, float(logged) if training.plan.get("attempt", 1) == 1 else None, place
