"""In every kind of storage, an unfinished trial can be handed on: set to waiting by one driver, claimed by the next."""

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from mloptimizer.study.storage import open_storage
from tests.postgresql import Server
from tests.study.storages import create, give_up

SPACE = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])}


@pytest.fixture(params=["journal", "sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        return server.create_database()
    return str(tmp_path / "s.journal") if request.param == "journal" else f"sqlite:///{tmp_path}/s.db"


def load(url: str) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=open_storage(url, Path("unused"), wait=give_up))


def test_a_trial_that_is_handed_on_keeps_all_it_has(url: str) -> None:
    first = create(url, Path("unused"))
    trial = first.ask(SPACE)
    trial.report(0.25, 1)
    trial.report(0.5, 2)
    trial.set_user_attr("epochs", 2)
    first._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
    second = load(url)
    for study in (first, second):
        (waiting,) = study.get_trials(states=[TrialState.WAITING])
        assert waiting.params == trial.params
        assert waiting.intermediate_values == {1: 0.25, 2: 0.5}
        assert waiting.user_attrs == {"epochs": 2}
    taken = second.ask(SPACE)
    assert (taken.number, taken.params, taken.user_attrs) == (0, trial.params, {"epochs": 2})
    taken.report(0.75, 3)
    second.tell(taken, 0.75)
    (done,) = load(url).trials
    assert (done.state, done.value, done.intermediate_values) == (TrialState.COMPLETE, 0.75, {1: 0.25, 2: 0.5, 3: 0.75})


def test_a_trial_is_claimed_once(url: str) -> None:
    first = create(url, Path("unused"))
    trial_id = first.ask(SPACE)._trial_id
    first._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
    second, third = load(url), load(url)
    assert second._storage.set_trial_state_values(trial_id, state=TrialState.RUNNING) is True
    for study in (second, third, first):
        assert study._storage.set_trial_state_values(trial_id, state=TrialState.RUNNING) is False
    assert [t.state for t in load(url).trials] == [TrialState.RUNNING]
