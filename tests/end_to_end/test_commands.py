"""Every command from the shell, in real processes, as a person types it."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest

from mloptimizer.study.storage import open_storage
from tests.shell import PATIENCE_SECONDS, SMALL, plans, results, run, start, trials_of, wait_for, write_small_space


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a whole small search named digits; what it printed is in ``printed.txt``."""
    folder = tmp_path_factory.mktemp("finished")
    done = run("search", "--dataset", "digits", "--trials", "4", "--seed", "3", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def test_a_search_tells_its_phases_its_winner_and_the_test_evaluation(finished: Path) -> None:
    printed = (finished / "printed.txt").read_text()
    told = ["Study 'digits' (new)", "Exploration: 4 trials", "Hall of fame: 2 trials", "Winner: trial", "test_accuracy"]
    places = [printed.find(words) for words in told]
    assert places == sorted(places) and places[0] >= 0, printed
    assert "359" in printed[places[-1] - 80 : places[-1]]  # the images of the test set


def test_records_are_read_by_pandas_in_one_line(finished: Path) -> None:
    epochs = pd.read_json(finished / "metrics_data/digits/trial_00000/epochs.jsonl", lines=True)
    assert list(epochs.epoch) == [1, 2]
    assert epochs.val_accuracy.between(0, 1).all()
    log = pd.read_csv(finished / "hardware_performance_logs/digits/trial_00000.csv")
    assert log.process_rss_mb.gt(50).all()


def test_the_folders_say_what_their_columns_mean(finished: Path) -> None:
    text = (finished / "metrics_data/README.md").read_text()
    for column in pd.read_json(finished / "metrics_data/digits/trial_00000/epochs.jsonl", lines=True).columns:
        assert f"| `{column}` |" in text
    text = (finished / "hardware_performance_logs/README.md").read_text()
    for column in pd.read_csv(finished / "hardware_performance_logs/digits/trial_00000.csv").columns:
        assert f"`{column}`" in text


def test_only_models_of_the_hall_of_fame_are_kept(finished: Path) -> None:
    kept = [path.parent.name for path in (finished / "metrics_data/digits").glob("*/model.weights.h5")]
    assert sum(name.startswith("hall_of_fame") for name in kept) == 2


def test_every_automatic_choice_has_its_reason(finished: Path) -> None:
    log = (finished / "debug_strategy.log").read_text()
    for topic in ("slots", "strategy", "precision", "XLA", "global batch", "learning-rate scale", "top-k", "threads"):
        assert f" {topic}: " in log


def test_the_journal_is_an_optuna_storage_with_both_phases(finished: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(finished / "metrics_data/studies.journal"))
    storage = optuna.storages.JournalStorage(backend)
    assert set(optuna.get_all_study_names(storage)) == {"digits", "digits-hall-of-fame"}
    study = optuna.load_study(study_name="digits", storage=storage)
    assert all(trial.state.is_finished() for trial in study.trials)


def test_trials_lists_them_and_writes_a_csv(finished: Path, tmp_path: Path) -> None:
    assert "★" in run("trials", "digits", cwd=finished).stdout  # before the winner
    run("trials", "digits", "--csv", str(tmp_path / "t.csv"), cwd=finished)
    with (tmp_path / "t.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_show_tells_the_study_and_one_trial(finished: Path) -> None:
    assert "accuracy" in run("show", "digits", cwd=finished).stdout
    (plan,) = [plan for plan in plans(finished / "metrics_data/digits") if plan["number"] == 0]
    shown = run("show", "digits", "0", cwd=finished).stdout
    assert plan["space"] in shown and all(name in shown for name in plan["params"])


def test_hardware_sums_up_the_logs(finished: Path) -> None:
    assert run("hardware", "digits", cwd=finished).returncode == 0
    assert "process_rss_mb" in run("hardware", "digits", "0", cwd=finished).stdout


def test_export_writes_a_model_that_keras_opens_alone(finished: Path, tmp_path: Path) -> None:
    done = run("export", "digits", "-o", str(tmp_path / "out"), cwd=finished)
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["test"]["test_accuracy"] > 0.2
    assert "learning_rate" in json.loads((tmp_path / "out/parameters.json").read_text())
    code = (
        "import keras, numpy; model = keras.models.load_model('model.keras');"
        "print(model.predict(numpy.zeros((1, 8, 8, 1)), verbose=0).sum())"
    )
    alone = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    )
    assert float(alone.stdout) == pytest.approx(1, abs=1e-5)
    (tmp_path / "out/metrics.json").write_text("{}")
    refused = run("export", "digits", "-o", str(tmp_path / "out"), cwd=finished)
    assert refused.returncode == 2 and "--force" in refused.stderr


def test_a_second_search_is_a_second_study_and_a_finished_one_trains_nothing(finished: Path) -> None:
    again = run("search", "--study", "digits", cwd=finished)
    assert again.returncode == 0
    assert "Study 'digits' (continued)" in again.stdout
    assert len(results(finished / "metrics_data/digits")) == 4
    words = ["search", "--dataset", "digits", "--trials", "1", "--explore-only", *SMALL]
    assert "Study 'digits-2' (new)" in run(*words, cwd=finished).stdout


def test_lists_of_what_there_is_to_choose_from(tmp_path: Path) -> None:
    assert "digits" in run("datasets", cwd=tmp_path).stdout
    assert "inception" in run("spaces", cwd=tmp_path).stdout
    assert "hall_of_fame_epochs" in run("settings", cwd=tmp_path).stdout


def test_init_makes_a_workspace_and_keeps_what_is_there(tmp_path: Path) -> None:
    assert "wrote new/system_parameters.py" in run("init", "new", cwd=tmp_path).stdout
    (tmp_path / "new/system_parameters.py").write_text("trials = 3\n")
    assert "kept  new/system_parameters.py" in run("init", "new", cwd=tmp_path).stdout
    assert (tmp_path / "new/system_parameters.py").read_text() == "trials = 3\n"
    assert "3" in run("settings", "--workspace", "new", cwd=tmp_path).stdout


def test_doctor_checks_this_machine(tmp_path: Path) -> None:
    done = run("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("TensorFlow", "XLA", "storage"):
        assert words in done.stdout


def test_settings_show_what_a_profile_changes(tmp_path: Path) -> None:
    lines = run(
        "settings", "--profile", "memory", "--set", "remat=off", cwd=tmp_path, COLUMNS="200"
    ).stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:4] for line in lines if line.split()}
    assert rows["accumulation_steps"] == ["4", "profile", "memory"]
    assert rows["remat"][0] == "off"
    assert "profile memory" not in next(line for line in lines if line.split()[:1] == ["trials"])


def test_a_search_under_a_profile_writes_what_tensorboard_shows(tmp_path: Path) -> None:
    words = ["search", "--dataset", "digits", "--trials", "1", "--explore-only", *SMALL]
    done = run(*words, "--profile", "basic", "--profile-trial", "0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "metrics_data/digits/trial_00000/profile"
    assert "tensorboard --logdir metrics_data/digits/trial_00000/profile" in done.stdout
    assert any(path.name.endswith(".xplane.pb") for path in folder.rglob("*"))
    plan = json.loads((folder.parent / "plan.json").read_text())
    assert (plan["settings"]["profile"], plan["settings"]["xla"]) == ("basic", "off")


def test_tune_measures_once_and_a_search_uses_what_it_found(tmp_path: Path) -> None:
    write_small_space(tmp_path)
    words = ["--set", "train_limit=400", "--set", "xla=off", "--space", "small"]
    done = run("tune", "digits", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    kept = (tmp_path / "metrics_data/tuning.json").read_bytes()
    assert run("tune", "digits", *words, cwd=tmp_path).returncode == 0
    assert (tmp_path / "metrics_data/tuning.json").read_bytes() == kept
    (plan,) = json.loads((tmp_path / "metrics_data/tuning.json").read_text())["plans"]
    run("search", "--dataset", "digits", "--trials", "1", "--explore-only", *SMALL, *words, cwd=tmp_path)
    trained = json.loads((tmp_path / "metrics_data/digits/trial_00000/plan.json").read_text())["settings"]
    assert {name: trained[name] for name in plan["decisions"]} == plan["decisions"]
    assert "data_on_device: " in (tmp_path / "debug_strategy.log").read_text()


def test_bench_writes_a_table_and_a_chart_and_nothing_over_them(tmp_path: Path) -> None:
    write_small_space(tmp_path)
    words = ["bench", "--epochs", "2", "--steps", "3", "--set", "train_limit=400", "--space", "small", "-o", "out"]
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with (tmp_path / "out/bench.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(rows["XLA"]["images_per_second"]) > 0, rows["XLA"]["failure"]
    assert all(row["images_per_second"] or "not measured" in row["failure"] for row in rows.values())
    assert (tmp_path / "out/bench.png").read_bytes().startswith(b"\x89PNG")
    again = run(*words, cwd=tmp_path)
    assert (again.returncode, "out" in again.stderr) == (2, True)


def test_a_stopped_bench_keeps_what_it_has_measured_and_leaves_no_process(tmp_path: Path) -> None:
    process = start("bench", "--epochs", "2", "--steps", "3", "--set", "train_limit=400", cwd=tmp_path)
    table = tmp_path / "bench_digits/bench.csv"
    wait_for(lambda: process.poll() is not None or (table.is_file() and "\nbaseline," in table.read_text()))
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, err) == (130, "")
    assert "bench_digits/bench.csv" in out
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    assert len(table.read_text().splitlines()) > 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("bench --dataset digit", "'digits'"),
        ("bench --space resnt", "'resnet'"),
        ("bench --steps 0", "--steps"),
        ("bench --target-accuracy 1.5", "--target-accuracy"),
        ("bench --set epoch=3", "'epoch'"),
        ("bench --set profile=speed", "--set profile"),
        ("bench -o /proc/nowhere", "/proc/nowhere"),
        ("tune digit", "'digits'"),
        ("tune digits --space resnt", "'resnet'"),
        ("tune digits --set xla=yes", "auto, on, off"),
        ("tune digits --workspace /proc/nowhere", "/proc/nowhere"),
        ("tune", "DATASET"),
        ("search --dataset digits --trials +3", "--trials +3"),
        ("search --dataset digits --warm-start old", "'old'"),
        ("search --dataset digits --warm-start old@postgresql://ann:secret@127.0.0.1:x/db", "ann:***@127.0.0.1:x/db"),
        ("search --dataset digits --enqueue missing.json", "missing.json"),
        ("stop s", "'s'"),
        ("pause s", "'s'"),
        ("resume s", "'s'"),
        ("add-trials s 3", "'s'"),
        ("add-trials s 0", "COUNT"),
        ("settings --profile sped", "'speed'"),
        ("search --dataset digits --profile sped", "'speed'"),
        ("search --dataset digits --profile-trial -1", "--profile-trial"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: str, says: str, tmp_path: Path) -> None:
    done = run(*words.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_tensorflow(tmp_path: Path) -> None:
    script = tmp_path / "help.py"
    script.write_text(
        "import sys, mloptimizer.cli.main\n"
        "sys.argv = ['mloptimizer', '--help']\n"
        "mloptimizer.cli.main.main()\n"
        "print(sorted({'tensorflow', 'keras', 'optuna', 'numpy', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A search that runs, with its first epoch behind it; and the folder of its study."""
    process = start(
        "search",
        "--dataset",
        "digits",
        "--trials",
        "3",
        "--study",
        "s",
        "--set",
        "pruner=none",
        *SMALL,
        "--set",
        "exploration_epochs=400",
        "--set",
        "exploration_patience=400",
        cwd=tmp_path,
    )
    folder = tmp_path / "metrics_data" / "s"
    wait_for(lambda: process.poll() is not None or bool(list(folder.glob("trial_*/epochs.jsonl"))))
    yield process, folder
    process.kill()
    process.communicate()


def test_ctrl_c_ends_at_once_and_the_study_can_be_continued(
    searching: tuple[subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    process, folder = searching
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, err) == (130, "")
    assert "mloptimizer resume s\n" in out
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    assert results(folder) == []
    before = plans(folder)
    words = ["--trials", str(len(before)), "--set", "exploration_epochs=1", "--explore-only"]
    again = run("search", "--study", "s", *words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [result["outcome"] for result in results(folder)] == ["completed"] * len(before)
    after = plans(folder)
    assert [(plan["number"], plan["params"]) for plan in after] == [(plan["number"], plan["params"]) for plan in before]
    assert {plan["attempt"] for plan in after} == {2}


def test_a_killed_trial_starts_again_and_the_search_goes_on(
    searching: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = searching
    trials_of(process.pid)[0].kill()
    wait_for(lambda: any(path.read_text().endswith("\n") for path in folder.glob("trial_*/attempts.jsonl")))
    (path,) = folder.glob("trial_*/attempts.jsonl")
    attempt = json.loads(path.read_text())
    assert (attempt["kind"], "SIGKILL" in attempt["message"]) == ("crash", True)
    wait_for(lambda: json.loads((path.parent / "plan.json").read_text())["attempt"] == 2)
    assert (process.poll(), results(folder)) == (None, [])


def test_a_search_is_steered_from_another_terminal(tmp_path: Path) -> None:
    small = ["--set", "exploration_epochs=25", "--set", "exploration_patience=25", "--set", "train_limit=400"]
    words = ["--trials", "2", "--workers", "1", "--space", "cnn", "--explore-only", "--set", "pruner=none", *small]
    process = start("search", "--dataset", "digits", "--study", "s", *words, cwd=tmp_path)
    folder = tmp_path / "metrics_data/s"
    epochs = folder / "trial_00000/epochs.jsonl"
    try:
        wait_for(lambda: process.poll() is not None or epochs.is_file())
        said = run("add-trials", "s", "40", cwd=tmp_path)
        assert (said.returncode, "40" in said.stdout) == (0, True)
        refused = run("resume", "s", "--trials", "9", cwd=tmp_path)
        assert (refused.returncode, "mloptimizer add-trials s N" in refused.stderr) == (2, True)
        (folder / "orders/0.json").write_text("no order")
        said = run("pause", "s", cwd=tmp_path)
        assert said.stdout.endswith("mloptimizer resume s\n")
        assert list((folder / "orders").iterdir()) == []
        wait_for(lambda: not trials_of(process.pid))
        assert process.poll() is None
        assert run("resume", "s", cwd=tmp_path).returncode == 0
        wait_for(lambda: process.poll() is not None or bool(trials_of(process.pid)))
        second = run("search", "--study", "s", cwd=tmp_path)
        assert re.search(rf"'s'.* {process.pid} .*\d{{4}}-\d\d-\d\d \d\d:\d\d", second.stderr)
        assert second.returncode == 2
        said = run("stop", "s", "--workspace", str(tmp_path), cwd=tmp_path)
        assert said.stdout.endswith(f"mloptimizer resume s --workspace {tmp_path}\n")
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert "42" in out and "0.json" in out and "mloptimizer resume s --explore-only" in out
    count = len(results(folder)) + 1  # the one that was running when the search was told to stop
    done = run("resume", "s", "--explore-only", "--trials", str(count), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(result["number"], result["outcome"]) for result in results(folder)] == [
        (number, "completed") for number in range(count)
    ]
    study = optuna.load_study(study_name="s", storage=open_storage("", tmp_path / "metrics_data/studies.journal"))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * count


def test_orders_that_nobody_takes_are_one_line(finished: Path) -> None:
    for command in ("stop", "pause"):
        done = run(command, "digits", cwd=finished)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Error: study 'digits': ")
        assert done.stderr.endswith("mloptimizer resume digits\n") and done.stderr.count("\n") == 1
    done = run("add-trials", "digist", "1", cwd=finished)
    assert (done.returncode, "'digits'" in done.stderr) == (2, True)


def test_trials_are_added_to_a_study_that_rests(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "metrics_data", tmp_path / "metrics_data")
    said = run("add-trials", "digits", "3", cwd=tmp_path)
    assert "7" in said.stdout and said.stdout.endswith("mloptimizer resume digits\n")
    assert json.loads((tmp_path / "metrics_data/digits/study.json").read_text())["settings"]["trials"] == 7


def test_a_new_study_learns_from_an_earlier_one_and_tries_its_winner_first(finished: Path, tmp_path: Path) -> None:
    run("export", "digits", "-o", str(tmp_path / "out"), cwd=finished)
    earlier = f"digits@{finished}/metrics_data/studies.journal"
    words = ["--trials", "1", "--explore-only", "--warm-start", earlier, "--enqueue", "out/parameters.json"]
    done = run("search", "--dataset", "digits", *words, *SMALL, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"'digits'.* 4 trials", done.stdout)
    (plan,) = [json.loads(path.read_text()) for path in tmp_path.glob("metrics_data/digits/trial_*/plan.json")]
    assert {"space": plan["space"], **plan["params"]} == json.loads((tmp_path / "out/parameters.json").read_text())
    run("trials", "digits", "--csv", "trials.csv", cwd=tmp_path)
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 2  # those that taught are none of this study


def test_a_killed_driver_leaves_no_process_and_the_study_continues(
    searching: tuple[subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    process, folder = searching
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    words = ["search", "--study", "s", "--trials", "1", "--set", "exploration_epochs=1", "--explore-only"]
    assert run(*words, cwd=tmp_path).returncode == 0
    assert [result["outcome"] for result in results(folder)].count("completed") == 1


def test_the_dashboard_shows_a_running_study_over_http(
    searching: tuple[subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    dashboard = start("dashboard", "--port", "0", cwd=tmp_path)
    try:
        assert dashboard.stdout is not None
        line = dashboard.stdout.readline()
        address = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        with urllib.request.urlopen(address + "api/studies", timeout=60) as answer:
            (study,) = json.load(answer)["study_summaries"]
        assert study["study_name"] == "s"
        with urllib.request.urlopen(f"{address}api/studies/{study['study_id']}?after=0", timeout=60) as answer:
            trials = json.load(answer)["trials"]
        assert trials[0]["state"] == "Running"
        dashboard.send_signal(signal.SIGINT)
        _, err = dashboard.communicate(timeout=60)
        assert (dashboard.returncode, err) == (0, "")
    finally:
        dashboard.kill()
        dashboard.communicate()
