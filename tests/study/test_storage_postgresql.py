"""PostgreSQL, a real server: a study outlasts its restarts, and no password is ever seen."""

import inspect
import logging
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import storage as rdb_storage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from mloptimizer.core.errors import MloptimizerError, RunError, UsageError
from mloptimizer.study.storage import open_storage, storage_errors
from tests.postgresql import AnswerCutter, Server
from tests.study.storages import create, give_up, open_error, wait_and

PASSWORD = "hun%2Fter2"  # as the URL has it
SECRETS = (PASSWORD, "hun/ter2")
UNUSED = Path("unused.journal")


@pytest.fixture
def url(postgresql: Server) -> str:
    return postgresql.create_database("hun/ter2")


@pytest.fixture(autouse=True)
def no_pauses_of_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna pauses up to 2 s when the creation of a trial is cut off."""
    monkeypatch.setattr(rdb_storage, "random", SimpleNamespace(random=lambda: 0.0))


@pytest.fixture
def cutter(postgresql: Server) -> Iterator[AnswerCutter]:
    with AnswerCutter(postgresql.port) as proxy:
        yield proxy


def load(url: str) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=open_storage(url, UNUSED))


def test_a_study_is_written_and_continued(url: str) -> None:
    study = create(url, UNUSED)
    study.enqueue_trial({"x": 0.5})
    trial = study.ask({"x": FloatDistribution(0, 1)})
    trial.report(0.25, 1)
    study.tell(trial, 0.75)
    (stored,) = load(url).trials
    assert (stored.state, stored.params, stored.intermediate_values) == (TrialState.COMPLETE, {"x": 0.5}, {1: 0.25})
    assert load(url).ask().number == 1


@pytest.mark.parametrize("wait", [None, give_up])
def test_a_refused_log_in_is_told_at_once_and_without_the_password(
    url: str, wait: Callable[[str], None] | None, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("", "sqlalchemy", "optuna"):
        caplog.set_level(logging.DEBUG, logger=name)
    wrong_password = url.replace(PASSWORD, "hunter3")
    missing_database = url.rpartition("/")[0] + "/nowhere"
    for refused, reason in ((wrong_password, "password authentication failed"), (missing_database, "does not exist")):
        with pytest.raises(UsageError, match=reason) as caught:
            open_storage(refused, UNUSED, wait=wait)
        text = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert "hunter3" not in text
        assert not any(secret in text for secret in SECRETS)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_is_stopped_is_waited_for(postgresql: Server, url: str, mode: str) -> None:
    troubles: list[str] = []
    study = optuna.create_study(
        storage=open_storage(url, UNUSED, wait=wait_and(postgresql.start, troubles)), study_name="s"
    )
    trial = study.ask()
    postgresql.stop(mode)
    trial.report(0.5, 1)
    assert len(troubles) == 2
    assert all("Connection refused" in line and "***@127.0.0.1" in line and "\n" not in line for line in troubles)
    troubles.clear()
    postgresql.stop(mode)
    assert study.ask().number == 1
    troubles.clear()
    postgresql.stop(mode)
    assert len(open_storage(url, UNUSED, wait=wait_and(postgresql.start, troubles)).get_all_studies()) == 1
    assert len(troubles) == 2
    assert [t.intermediate_values for t in load(url).trials] == [{1: 0.5}, {}]


def test_without_a_wait_a_stopped_server_is_an_error_and_a_wait_may_give_up(postgresql: Server, url: str) -> None:
    impatient = create(url, UNUSED)
    patient = optuna.load_study(study_name="s", storage=open_storage(url, UNUSED, wait=give_up))
    postgresql.stop("fast")
    try:
        for study in (impatient, patient):
            with pytest.raises(RunError, match="Connection refused") as caught, storage_errors(url, UNUSED):
                study.set_user_attr("a", 1)
            assert not any(secret in "".join(traceback.format_exception(caught.value)) for secret in SECRETS)
        assert "Check that the server runs" in str(open_error(url))
    finally:
        postgresql.start()
    impatient.set_user_attr("a", 2)
    assert patient.user_attrs == {"a": 2}


def test_restarts_during_a_search_lose_nothing_and_show_no_password(
    postgresql: Server, url: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for name in ("", "sqlalchemy", "optuna"):
        caplog.set_level(logging.DEBUG, logger=name)
    troubles: list[str] = []
    reported, done, pause = [0], threading.Event(), threading.Event()

    def wait(trouble: str) -> None:
        troubles.append(trouble)
        pause.wait(0.02)

    study = optuna.create_study(storage=open_storage(url, tmp_path, wait=wait), study_name="s")

    def search() -> None:
        while not done.is_set():
            trial = study.ask({"x": FloatDistribution(0, 1)})
            trial.set_user_attr("kept", trial.number)
            for epoch in range(1, 6):
                trial.report(epoch / 10, epoch)
                reported[0] += 1
            study.tell(trial, trial.number)

    thread = threading.Thread(target=search)
    thread.start()
    for action in ("immediate", "end_connections", "fast", "end_connections", "immediate"):
        before = reported[0]
        while reported[0] < before + 10:
            assert thread.is_alive()
            pause.wait(0.005)
        if action == "end_connections":
            postgresql.end_connections(url)
        else:
            postgresql.stop(action)
            postgresql.start()
    done.set()
    thread.join()
    trials = load(url).trials
    finished = [t for t in trials if t.state == TrialState.COMPLETE]
    assert [t.value for t in finished] == [t.number for t in finished] == [t.user_attrs["kept"] for t in finished]
    assert all(t.intermediate_values == {e: e / 10 for e in range(1, 6)} and "x" in t.params for t in finished)
    assert len(finished) * 5 == reported[0]
    assert all(t.state == TrialState.RUNNING and not t.params for t in trials if t not in finished)  # lost answers
    assert troubles
    texts = [*troubles, caplog.text, *(path.read_text() for path in tmp_path.rglob("*") if path.is_file())]
    assert not any(secret in text for text in texts for secret in SECRETS)


def test_what_was_stored_before_its_answer_was_lost_is_no_error(
    postgresql: Server, url: str, cutter: AnswerCutter
) -> None:
    troubles: list[str] = []
    through = url.replace(str(postgresql.port), str(cutter.port))
    storage = optuna.storages.get_storage(open_storage(through, UNUSED, wait=troubles.append))

    def cut(operation: Callable[[], object]) -> object:
        cutter.armed = True
        result = operation()
        assert not cutter.armed
        return result

    study_id = cut(lambda: storage.create_new_study([StudyDirection.MINIMIZE], "s"))
    assert isinstance(study_id, int)
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study([StudyDirection.MINIMIZE], "s")
    trial_id = storage.create_new_trial(study_id)
    cut(lambda: storage.set_study_user_attr(study_id, "a", 1))
    cut(lambda: storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1)))
    cut(lambda: storage.set_trial_intermediate_value(trial_id, 1, float("nan")))
    cut(lambda: storage.set_trial_user_attr(trial_id, "b", 2))
    assert cut(lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.1 + 0.2])) is True
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.1 + 0.2])
    (stored,) = load(url).trials
    assert (stored.values, stored.params, stored.user_attrs) == ([0.1 + 0.2], {"x": 0.5}, {"b": 2})
    assert len(troubles) == cutter.cuts == 6
    other_id = cut(lambda: storage.create_new_trial(study_id))
    assert [(t._trial_id == other_id, t.state) for t in load(url).trials[1:]] == [
        (False, TrialState.RUNNING),
        (True, TrialState.RUNNING),
    ]


def test_another_end_of_the_trial_is_not_taken_for_the_lost_one(
    postgresql: Server, url: str, cutter: AnswerCutter
) -> None:
    def end_otherwise(_: str) -> None:
        load(url)._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    through = url.replace(str(postgresql.port), str(cutter.port))
    storage = open_storage(through, UNUSED, wait=end_otherwise)
    trial_id = storage.create_new_trial(storage.create_new_study([StudyDirection.MINIMIZE], "s"))
    cutter.armed = True
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, TrialState.WAITING)
    assert cutter.cuts == 1


def test_all_that_optunas_cache_asks_of_the_database_is_patient(url: str) -> None:
    storage = open_storage(url, UNUSED, wait=give_up)
    assert isinstance(storage, RDBStorage)
    asked = set(re.findall(r"self\._backend\.(\w+)\(", inspect.getsource(_CachedStorage)))
    local = {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback"}
    assert asked - local <= set(vars(storage))


def test_an_error_of_the_study_is_no_trouble_that_passes(url: str) -> None:
    storage = open_storage(url, UNUSED, wait=give_up)
    with pytest.raises(KeyError, match="Record does not exist"):
        storage.set_study_user_attr(99, "a", 1)
    with pytest.raises(MloptimizerError, match="too long"), storage_errors(url, UNUSED):
        storage.create_new_study([StudyDirection.MINIMIZE], "s" * 600)
