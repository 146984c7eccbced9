"""Shows what a study is and what came out of it.

Everything is read from the files of the workspace; what is missing there is a dash, and no figure is made up.
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
from mloptimizer.reports.terminal.trial_table import count_states, counts_in_words, failure_kind
from mloptimizer.store.trial_records import MetricsStore
from mloptimizer.store.workspace import Workspace

_NOT_FIGURES = ("trial", "phase", "epochs", "read_utc")


def study_report(workspace: Workspace, study: str) -> RenderableType:
    """Return what the study is and what came out of it: data, settings, counts, winner, test evaluation, next step.

    Raises:
        UsageError: there is no such study, or its `study.json` is damaged.
    """
    record = read_study_record(workspace, study)
    rows = [
        ("data", _dataset_words(record.facts.get("dataset"))),
        ("objective", f"{record.objective.metric}, the {'highest' if record.objective.maximize else 'lowest'} is best"),
        ("settings", _settings_words(record.facts.get("settings"))),
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
    splits = ", ".join(
        f"{short(dataset.get(f'{split}_size'))} {words}"
        for split, words in (("train", "to train"), ("validation", "to validate"), ("test", "to test"))
    )
    return f"{short(dataset.get('name'))}: {size} pixels, {short(dataset.get('classes'))} classes; images: {splits}"


def _settings_words(settings: object) -> str:
    if not isinstance(settings, Mapping):
        return MISSING
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    changed = [
        f"{name} = {short(value)}"
        for name, value in settings.items()
        if name != "storage" and (tuple(value) if isinstance(value, list) else value) != defaults.get(name)
    ]
    return ", ".join(changed) or "all as by default"


def _outcome_words(record: StudyRecord, phase: Phase) -> str:
    words = counts_in_words(count_states(record, phase))
    kinds = Counter(kind for standing in record.standings if (kind := failure_kind(standing.record(phase))))
    if kinds:
        words += f" (why they failed: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())})"
    damaged = [standing.damage for standing in record.standings if standing.damage]
    return f"{words}; {len(damaged)} unreadable: {damaged[0]}" if damaged and phase == Phase.EXPLORATION else words


def _winner_rows(record: StudyRecord) -> list[tuple[str, str]]:
    if record.winner is None:
        return [("winner", "none: no trial is completed yet")]
    number, phase = record.winner
    standing = next(standing for standing in record.standings if standing.number == number)
    training = standing.record(phase)
    figures = training.result.get("metrics") if training else None
    shown = {name: value for name, value in figures.items() if name.startswith("val_")} if figures else {}
    return [
        (record.leads_as, f"trial {number} ({phase.words}), {short(standing.plan.get('space'))}"),
        ("parameters", pairs(standing.params)),
        ("validation", pairs(shown)),
    ]


def _test_words(workspace: Workspace, record: StudyRecord) -> str:
    try:
        readings = MetricsStore(workspace, record.name).test_evaluations()
    except UsageError as error:
        return f"cannot be read: {error}"
    if not readings:
        return "not read yet"
    last = readings[-1]
    figures = {name: value for name, value in last.items() if name not in _NOT_FIGURES}
    times = "once" if len(readings) == 1 else f"{len(readings)} times, this is the last"
    trained = f"trial {short(last.get('trial'))}, {short(last.get('phase')).replace('_', ' ')}"
    if record.winner != (last.get("trial"), last.get("phase")):
        trained += ", which is not the winner any more"
    return f"{pairs(figures)} ({trained}; the test set was read {times})"


def _next_step(record: StudyRecord) -> str:
    """Return a command, which a narrow terminal must not break, and below it what it does."""
    if record.running:
        return "mloptimizer top\nshows the search that is running"
    if record.is_over:
        return f"mloptimizer export {record.name} -o DIR\nwrites the winner as a Keras model"
    return f"mloptimizer resume {record.name}\ncontinues the search"
