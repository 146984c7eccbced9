"""Imports what earlier studies or a person know: trials for the sampler, and configurations to try first.

It imports nothing that the search spaces of the study could not propose, and nothing twice.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.core.words import counted
from mloptimizer.spaces.space_files import SearchSpace
from mloptimizer.study.answers import Answers, Fitting, fit
from mloptimizer.study.earlier import EarlierStudy
from mloptimizer.study.phase_study import PhaseStudy
from mloptimizer.study.suggestions import ParameterNames, configuration_key
from mloptimizer.study.trials import TrialStatus

# Attributes that two studies must share for their values to be comparable, and how the message names a difference.
_COMPARED: Mapping[str, str] = {
    "fingerprint": "other images",
    "split": "another number of images",
    "objective": "another objective",
    "exploration_epochs": "other exploration_epochs",
}


@dataclass(frozen=True)
class WarmStart:
    """What an earlier study contributed: numbers of trials, and why its values cannot be compared."""

    imported: int  # for the sampler
    enqueued: int  # to be tried first
    unfit: int  # the search spaces could not propose them
    different: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return it in words, without a full stop."""
        best = "its best is tried first" if self.enqueued == 1 else f"its best {self.enqueued} are tried first"
        parts = [f"the sampler learns from {counted(self.imported, 'trial')}"] * (self.imported > 0)
        parts += [best] * (self.enqueued > 0)
        parts = parts or ["this study already has all of it"]
        if self.different:
            parts.append(f"its values cannot be compared ({', '.join(self.different)})")
        if self.unfit:
            parts.append(f"the search spaces could not propose {counted(self.unfit, 'trial')} of it")
        return "; ".join(parts)


@dataclass(frozen=True)
class Receiver:
    """The exploration that imports something."""

    study: PhaseStudy
    names: ParameterNames
    tried: Collection[str]  # keys of the configurations that are running or done
    spaces: Sequence[SearchSpace]
    dataset: DatasetInfo

    def enqueue(self, answers: Answers) -> bool:
        """Let the configuration be tried first; return whether it is new. Raises UsageError: it does not fit."""
        fitting = fit(answers, self.spaces, self.dataset, self.names)
        if fitting.key in self.tried or fitting.key in self.study.queued():
            return False
        self.names.learn(fitting.distributions)
        self.study.optuna.enqueue_trial(dict(fitting.asked), user_attrs={"key": fitting.key})
        return True

    def add(self, trial: FrozenTrial, fitting: Fitting, source: str) -> None:
        """Add the trial of an earlier study as one that has ended."""
        self.names.learn(fitting.distributions)
        facts = {"space": fitting.space, "params": dict(fitting.params), "metrics": trial.user_attrs.get("metrics", {})}
        imported = optuna.trial.create_trial(
            state=trial.state,
            value=trial.value,
            params=dict(fitting.asked),
            distributions=dict(fitting.distributions),
            user_attrs={**facts, "outcome": TrialStatus.IMPORTED, "taught_by": f"{source}, trial {trial.number}"},
            intermediate_values=trial.intermediate_values,
        )
        self.study.optuna.add_trial(imported)


def import_trials(receiver: Receiver, earlier: EarlierStudy, best: int) -> WarmStart:
    """Add the fitting trials of the earlier study if values can be compared, and enqueue its `best` best ones."""
    ours, theirs = receiver.study.optuna.user_attrs, earlier.attributes
    different = tuple(words for name, words in _COMPARED.items() if theirs.get(name) != ours.get(name))
    trials = receiver.study.frozen_trials()
    known = {_identity(trial) for trial in trials if trial.user_attrs.get("outcome") == TrialStatus.IMPORTED}
    fitting: dict[int, Answers] = {}
    imported = 0
    for trial in earlier.trials:
        answers = read_answers(trial)
        try:
            fits = fit(answers, receiver.spaces, receiver.dataset, receiver.names)
        except UsageError:
            continue
        if fits.key != _key(trial):
            continue  # the space makes another configuration of the same answers now
        fitting[trial.number] = answers
        if not different and _identity(trial) not in known:
            receiver.add(trial, fits, earlier.name)
            imported += 1
    first = [fitting[trial.number] for trial in earlier.ranked() if trial.number in fitting][:best]
    enqueued = sum(receiver.enqueue(answers) for answers in first)
    return WarmStart(imported, enqueued, len(earlier.trials) - len(fitting), different)


def record_dataset(study: PhaseStudy, name: str, dataset: DatasetInfo) -> None:
    """Record the study's data set; raise UsageError if the study has another one."""
    stored = study.optuna.user_attrs
    if stored.get("dataset", dataset.name) != dataset.name:
        text = f"study '{name}': searches {stored['dataset']}, not {dataset.name}. Choose another study name."
        raise UsageError(text)
    split = f"{dataset.train_size} + {dataset.validation_size}"
    for attribute, fact in (("dataset", dataset.name), ("fingerprint", dataset.fingerprint), ("split", split)):
        if attribute not in stored:
            study.optuna.set_user_attr(attribute, fact)


def read_answers(trial: FrozenTrial) -> Answers:
    """Return the answers that Optuna has stored for the trial's search space."""
    space = str(trial.user_attrs.get("space", ""))
    own = {ParameterNames.own_name(n, space): v for n, v in trial.params.items() if not ParameterNames.is_family(n)}
    return Answers(space, own)


def _key(trial: FrozenTrial) -> str:
    return configuration_key(str(trial.user_attrs.get("space", "")), trial.user_attrs["params"])


def _identity(trial: FrozenTrial) -> tuple[str, TrialState, float | None, int]:
    return _key(trial), trial.state, trial.value, len(trial.intermediate_values)
