"""Shows what slows the trials of a study down, with the evidence and the setting to change.

Everything is read from the files of the workspace; a log that cannot be read is told in a line and hides no other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from mloptimizer.core.errors import MloptimizerError, UsageError
from mloptimizer.core.nouns import TRAINED_PHASES, Phase
from mloptimizer.core.words import counted, read_time
from mloptimizer.hardware.analysis.diagnosis import IDLE_BETWEEN, RULES, Finding, describe_change, find, present_values
from mloptimizer.hardware.analysis.evidence import gather_evidence
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.reports.formatting import is_number
from mloptimizer.reports.model.standings import StudyRecord, find_study, read_study_record
from mloptimizer.store.trial_records import TrialRecord
from mloptimizer.store.workspace import Workspace

_NOTHING = " that a setting could change: no rule of the table in docs/hardware.md holds."
_LONGEST_GAP_S = 300.0  # between two trials of a slot: longer ones are pauses, and the time between two searches


@dataclass(frozen=True)
class Diagnosed:
    """What one training's log says; `damage` says why it cannot be read."""

    number: int
    phase: Phase
    findings: tuple[Finding, ...] = ()
    damage: str = ""


def diagnosis_report(workspace: Workspace, study: str, number: int | None = None) -> RenderableType:
    """Return what is found in the logs of a study, or of one of its trials.

    Raises:
        UsageError: there is no such study, or it has no such log.
    """
    record = read_study_record(workspace, find_study(workspace, study))
    done = list(_diagnose(workspace, record, number))
    if not done and number is None:
        return Text(f"Study {study} has no hardware logs: none of its trials has started yet, or they were removed.")
    if not done:
        raise UsageError(f"TRIAL {number}: study '{study}' has no hardware log of such a trial.")
    damages = [Text(each.damage) for each in done if each.damage]
    if number is None:
        return Group(*_study_parts(record, [each for each in done if not each.damage]), *damages)
    return Group(*(part for each in done for part in _trial_parts(study, each)), *damages)


def _diagnose(workspace: Workspace, record: StudyRecord, number: int | None) -> Iterator[Diagnosed]:
    standings = {standing.number: standing for standing in record.standings}
    for phase in TRAINED_PHASES:
        for each in standings if number is None else [number]:
            path = workspace.hardware_log(record.name, each, phase)
            if not path.is_file():
                continue
            try:
                training = standings[each].record(phase) if each in standings else None
                found = find(gather_evidence(read_trace(path)), present=_present(training))
                yield Diagnosed(each, phase, tuple(found))
            except MloptimizerError as error:
                yield Diagnosed(each, phase, damage=str(error))


def _trial_parts(study: str, done: Diagnosed) -> Iterator[RenderableType]:
    if done.damage:
        return
    yield Text(f"Trial {done.number} of study {study}, {done.phase.words}", style="bold")
    for finding in done.findings:
        yield from _finding_parts(finding)
    if not done.findings:
        yield Padding(Text(f"Nothing found{_NOTHING}"), (0, 0, 0, 2))


def _present(training: TrialRecord | None) -> dict[str, str]:
    settings, choices = (training.plan.get("settings"), training.result.get("choices")) if training else ({}, {})
    return present_values(settings if isinstance(settings, Mapping) else {}, choices or {})


def _finding_parts(finding: Finding, how_often: str = "", where: str = "") -> Iterator[RenderableType]:
    rule = finding.rule
    yield Padding(Text(f"{rule.name}{how_often}: {rule.meaning}", style="bold yellow"), (0, 0, 0, 2))
    yield Padding(Text(f"evidence: {finding.evidence}{where}"), (0, 0, 0, 4))
    for change in finding.changes:
        yield Padding(Text(f"change: {describe_change(change)}"), (0, 0, 0, 4))


def _study_parts(record: StudyRecord, done: Sequence[Diagnosed]) -> Iterator[RenderableType]:
    yield Text(f"Study {record.name}", style="bold")
    found = 0
    for rule in RULES:
        held = [(each, finding) for each in done for finding in each.findings if finding.rule is rule]
        if held:
            found += 1
            first, finding = held[0]
            often = f" in {len(held)} of {counted(len(done), 'training')}"
            yield from _finding_parts(finding, often, f" (trial {first.number}, {first.phase.words})")
    for between in _find_idle(record):
        found += 1
        yield from _finding_parts(between)
    if not found:
        yield Padding(Text(f"Nothing found in {counted(len(done), 'training')}{_NOTHING}"), (0, 0, 0, 2))


def describe_main_finding(workspace: Workspace, study: str) -> str:
    """Return a line on what slows the study's trainings down most often, as their records tell; empty without records.

    Nothing is raised: how the search ended is told in any case.
    """
    try:
        record = read_study_record(workspace, study)
    except MloptimizerError as error:
        return f"Hardware: nothing can be told. {error}"
    known = [training.result["hardware"] for training in _trainings(record) if training.result.get("hardware")]
    if not known:
        return ""
    found = [str(figures.get("findings") or "").split(", ") for figures in known]
    counts = {rule.name: sum(rule.name in names for names in found) for rule in RULES}
    name = max(counts, key=lambda each: counts[each])
    idle = _find_idle(record)
    if idle and counts[name] < len(known):
        return f"Hardware: idle between trials: {idle[0].evidence}. What to change: mloptimizer diagnose {study}"
    if counts[name]:
        often = f"{counts[name]} of {counted(len(known), 'training')}"
        return f"Hardware: {name} in {often}. Why, and what to change: mloptimizer diagnose {study}"
    return f"Hardware: nothing found that slows the trials. Their figures: mloptimizer hardware {study}"


def _find_idle(record: StudyRecord) -> list[Finding]:
    last = next(reversed(list(_trainings(record))), None)
    return find(measure_idle_between(record), (IDLE_BETWEEN,), _present(last))


def _trainings(record: StudyRecord) -> Iterator[TrialRecord]:
    for standing in record.standings:
        yield from (training for phase in TRAINED_PHASES if (training := standing.record(phase)))


def measure_idle_between(record: StudyRecord) -> dict[str, float]:
    """Return which share of the slots' time passed between trials, or before a trial's log began.

    A trial follows the one that ended last before it began, in its own slot where the plan names that. A GPU that
    several trials share waits only while none is there.
    """
    times = (time for training in _trainings(record) if (time := _begun_and_ended(training)))
    free: dict[_Place, list[float]] = {}  # when the slots that wait were left
    idle = busy = 0.0
    for begun, ended, logged, place in sorted(times, key=lambda time: time[:2]):
        left = free.setdefault(place, [])
        if before := [end for end in left if end <= begun]:
            left.remove(max(before))
            gap = begun - max(before)
            is_shared = place[1] and len(left) >= len(before)  # one that is there still
            idle += gap if gap <= _LONGEST_GAP_S and logged is not None and not is_shared else 0.0
        left.append(ended)
        known = ended - begun if logged is None else logged
        idle += max(ended - begun - known, 0.0)
        busy += min(known, ended - begun)
    return {"idle_between_percent": 100 * idle / (idle + busy) if busy else nan}


_Place = tuple[str, bool]
"""A slot, or the GPU of slots that share one; and whether it is shared."""


def _begun_and_ended(training: TrialRecord) -> tuple[float, float, float | None, _Place] | None:
    """Return when the training's last attempt began and ended, how long its log is, s, and where; None where that is
    unknown.

    Of several attempts only the last's beginning is recorded, and the log is that of all: then its length is None.
    """
    logged, slot = (training.result.get("hardware") or {}).get("duration_s"), training.plan.get("slot")
    times = read_time(training.plan.get("started_utc")), read_time(training.result.get("ended_utc"))
    begun, ended = (time.timestamp() if time else nan for time in times)
    if not is_number(logged) or not begun <= ended:
        return None
    alone = training.plan.get("attempt", 1) == 1
    return begun, ended, float(logged) if alone else None, _find_place(slot if isinstance(slot, Mapping) else {})


def _find_place(slot: Mapping[str, object]) -> _Place:
    trials = slot.get("gpu_trials")
    if isinstance(trials, int) and trials > 1:
        return str(slot.get("gpu_ids")), True
    return str(slot.get("name", "")), False
