"""Shows what a study searches, and its results.

Everything is read from the files of the workspace; what is missing is a dash.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import TRAINED_PHASES, Phase
from mloptimizer.reports.formatting import MISSING, pairs, short
from mloptimizer.reports.model.standings import StudyRecord, read_study_record
from mloptimizer.reports.terminal.trials_table import count_states, counts_in_words, failure_kind
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace

_NOT_METRICS = ("trial", "phase", "epochs", "read_utc")


def study_report(workspace: Workspace, study: str) -> RenderableType:
    """Return the study's data, settings, counts, winner, test evaluation and next step.

    Raises:
        UsageError: there is no such study, or its `study.json` is damaged.
    """
    record = read_study_record(workspace, study)
    rows = [
        ("data", _dataset_words(record.facts.get("dataset"))),
        ("objective", f"{record.objective.metric}, the {'highest' if record.objective.maximize else 'lowest'} is best"),
        ("settings", _settings_words(record.settings)),
        ("seed", short(record.facts.get("seed"))),
        *((phase.words, _outcome_words(record, phase)) for phase in TRAINED_PHASES),
        *_winner_rows(record),
        ("test set", _test_words(workspace, record)),
        ("next", _next_step(record)),
    ]
    return Group(Text(f"Study {record.name}", style="bold"), facts_grid(rows))


def facts_grid(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Return names and texts in two columns."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(Text(name), Text(text))
    return Padding(grid, (0, 0, 0, 2))


def _dataset_words(dataset: object) -> str:
    if not isinstance(dataset, Mapping):
        return short(dataset)
    shape = dataset.get("input_shape")
    size = "×".join(short(side) for side in shape) if isinstance(shape, Sequence) and shape else MISSING
    splits = ", ".join(f"{short(dataset.get(f'{split}_size'))} {split}" for split in ("train", "validation", "test"))
    return f"{short(dataset.get('name'))}: {size} pixels, {short(dataset.get('classes'))} classes; images: {splits}"


def _settings_words(settings: Mapping[str, object]) -> str:
    if not settings:
        return MISSING
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    changed = [
        f"{name} = {short(value)}"
        for name, value in settings.items()
        if name != "storage" and (tuple(value) if isinstance(value, list) else value) != defaults.get(name)
    ]
    return ", ".join(changed) or "all at their defaults"


def _outcome_words(record: StudyRecord, phase: Phase) -> str:
    words = counts_in_words(count_states(record, phase))
    kinds = Counter(kind for standing in record.standings if (kind := failure_kind(standing.record(phase))))
    if kinds:
        words += f" (failures: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())})"
    damaged = [standing.damage for standing in record.standings if standing.damage]
    return f"{words}; {len(damaged)} unreadable: {damaged[0]}" if damaged and phase == Phase.EXPLORATION else words


def _winner_rows(record: StudyRecord) -> list[tuple[str, str]]:
    if record.winner is None:
        return [("winner", "none: no trial is completed yet")]
    number, phase = record.winner
    standing = next(standing for standing in record.standings if standing.number == number)
    training = standing.record(phase)
    metrics = training.result.get("metrics", {}) if training else {}
    return [
        (record.leads_as, f"trial {number} ({phase.words}), {short(standing.plan.get('space'))}"),
        ("parameters", pairs(standing.params)),
        ("validation", pairs({name: value for name, value in metrics.items() if name.startswith("val_")})),
    ]


def _test_words(workspace: Workspace, record: StudyRecord) -> str:
    try:
        readings = MetricsStore(workspace, record.name).test_evaluations()
    except UsageError as error:
        return f"cannot be read: {error}"
    if not readings:
        return "not read yet"
    last = readings[-1]
    metrics = {name: value for name, value in last.items() if name not in _NOT_METRICS}
    times = len(readings)
    count = f"the last of {times} readings of the test set" if times > 1 else "the test set was read once"
    trained = f"trial {short(last['trial'])}, {short(last['phase']).replace('_', ' ')}"
    if record.winner != record.tested:
        trained += ", which is no longer the winner"
    return f"{pairs(metrics)} ({trained}; {count})"


def _next_step(record: StudyRecord) -> str:
    """Return a command, on a line of its own so that a narrow terminal does not break it, and what it does."""
    if record.running:
        return "mloptimizer top\nshows the search that is running"
    if record.is_over:
        return f"mloptimizer export {record.name} -o DIR\nwrites the winner as a Keras model"
    return f"mloptimizer resume {record.name}\ncontinues the search"
