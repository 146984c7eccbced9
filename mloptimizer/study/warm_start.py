"""Takes over what earlier studies or a person know: trials that teach the sampler, and configurations to try first.

Nothing is taken over that the search spaces of the study could not propose themselves, and nothing twice.
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

# Attributes of studies: values can be compared where all are equal; and what another one is called.
_COMPARED: Mapping[str, str] = {
    "fingerprint": "other images",
    "split": "another number of images",
    "objective": "another objective",
    "exploration_epochs": "other exploration_epochs",
}


@dataclass(frozen=True)
class TakenOver:
    """What a warm start brought: trials that teach the sampler, configurations tried first, and what did not fit."""

    taught: int
    enqueued: int
    unfit: int
    different: tuple[str, ...] = ()  # why the earlier values cannot be compared

    def describe(self) -> str:
        """Return it in words, without an end."""
        parts = []
        if self.taught:
            parts.append(f"the sampler learns from {counted(self.taught, 'trial')}")
        if self.enqueued:
            parts.append(
                "its best is tried first" if self.enqueued == 1 else f"its best {self.enqueued} are tried first"
            )
        parts = parts or ["it brings nothing that this study does not have"]
        if self.different:
            parts.append(f"its values cannot be compared ({', '.join(self.different)})")
        if self.unfit:
            parts.append(f"{counted(self.unfit, 'trial')} of it could not be proposed by the search spaces")
        return "; ".join(parts)


@dataclass(frozen=True)
class Receiver:
    """The exploration that takes something over, with what it knows already."""

    study: PhaseStudy
    names: ParameterNames
    tried: Collection[str]  # keys of the configurations that are running or done
    spaces: Sequence[SearchSpace]
    dataset: DatasetInfo

    def fit(self, answers: Answers) -> Fitting:
        """Return what the space makes of the answers; raise UsageError where no space could propose them."""
        return fit(answers, self.spaces, self.dataset, self.names)

    def enqueue(self, answers: Answers) -> bool:
        """Let the configuration be tried before others; False: it has been tried, or waits already."""
        fitting = self.fit(answers)
        if fitting.key in self.tried or fitting.key in self.study.queued():
            return False
        self.names.learn(fitting.distributions)
        self.study.enqueue(fitting.asked, key=fitting.key)
        return True

    def teach(self, trial: FrozenTrial, fitting: Fitting, source: str) -> None:
        """Add the trial of an earlier study as one that has ended."""
        self.names.learn(fitting.distributions)
        facts = {"space": fitting.space, "params": dict(fitting.params), "metrics": trial.user_attrs.get("metrics", {})}
        taught = optuna.trial.create_trial(
            state=trial.state,
            value=trial.value,
            params=dict(fitting.asked),
            distributions=dict(fitting.distributions),
            user_attrs={**facts, "outcome": TrialStatus.TAUGHT, "taught_by": f"{source}, trial {trial.number}"},
            intermediate_values=trial.intermediate_values,
        )
        self.study.add(taught)


def take_over(receiver: Receiver, earlier: EarlierStudy, best: int) -> TakenOver:
    """Add the earlier trials that fit to the study, where values can be compared, and enqueue the best of them.

    Args:
        best: how many configurations are tried first.
    """
    study = receiver.study
    different = [
        words for name, words in _COMPARED.items() if earlier.attributes.get(name) != study.attributes.get(name)
    ]
    known = {
        _describe(trial) for trial in study.frozen_trials() if trial.user_attrs.get("outcome") == TrialStatus.TAUGHT
    }
    fitting: dict[int, Answers] = {}
    taught = 0
    for trial in earlier.trials:
        answers = read_answers(trial)
        try:
            fits = receiver.fit(answers)
        except UsageError:
            continue
        if fits.key != _key(trial):
            continue  # of the same answers, the space makes another configuration now
        fitting[trial.number] = answers
        if not different and _describe(trial) not in known:
            receiver.teach(trial, fits, earlier.name)
            taught += 1
    first = [fitting[trial.number] for trial in earlier.ranked() if trial.number in fitting][:best]
    enqueued = sum(receiver.enqueue(answers) for answers in first)
    return TakenOver(taught, enqueued, len(earlier.trials) - len(fitting), tuple(different))


def record_dataset(study: PhaseStudy, name: str, dataset: DatasetInfo) -> None:
    """Write down which images the study is about; raise UsageError where it is about others."""
    stored = study.attributes
    if stored.get("dataset", dataset.name) != dataset.name:
        raise UsageError(
            f"study '{name}': searches {stored['dataset']}, not {dataset.name}. Choose another study name."
        )
    split = f"{dataset.train_size} + {dataset.validation_size}"
    for attribute, fact in (("dataset", dataset.name), ("fingerprint", dataset.fingerprint), ("split", split)):
        if attribute not in stored:
            study.set_attribute(attribute, fact)


def read_answers(trial: FrozenTrial) -> Answers:
    """Return what the trial's search space was answered, as Optuna has stored it."""
    space = str(trial.user_attrs.get("space", ""))
    stored = {name: value for name, value in trial.params.items() if not ParameterNames.is_family(name)}
    return Answers(space, {ParameterNames.own_name(name, space): value for name, value in stored.items()})


def _key(trial: FrozenTrial) -> str:
    return configuration_key(str(trial.user_attrs.get("space", "")), trial.user_attrs["params"])


def _describe(trial: FrozenTrial) -> tuple[str, TrialState, float | None, int]:
    """Return what tells two trials of the same data apart."""
    return _key(trial), trial.state, trial.value, len(trial.intermediate_values)
