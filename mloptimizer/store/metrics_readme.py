"""Documents each file and each column in `metrics_data/`."""

from mloptimizer.hardware.analysis.diagnosis import HARDWARE_METRICS

EPOCH_COLUMNS = {
    "epoch": "number of the epoch, from 1",
    "seconds": "wall time of the epoch, including validation, s",
    "ended_utc": "when it ended, ISO 8601 in UTC, by the clock of the hardware log",
    "loss": "mean training loss, including label smoothing and regularization",
    "accuracy": "fraction of the training images classified correctly, 0 to 1",
    "top_k_accuracy": "fraction of the training images whose class is among the k most likely, 0 to 1",
    "val_loss": "mean cross-entropy on the validation split, without label smoothing",
    "val_accuracy": "accuracy on the validation split, 0 to 1",
    "val_top_k_accuracy": "top-k accuracy on the validation split, 0 to 1",
    "learning_rate": "learning rate at the end of the epoch",
    "images_per_second": "training images per second of training, excluding validation",
    "gradient_norm": "mean global norm of the gradients before clipping",
    "skipped_steps": "steps skipped because loss or gradient was not finite",
    "data_wait_percent": "share of the training time that the step waited for its batch, %",
}


def render_metrics_readme() -> str:
    """Return the README of the folder, with units."""
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in EPOCH_COLUMNS.items())
    hardware = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in HARDWARE_METRICS.items())
    return f"""# metrics_data: what the searches learned

| file | contents |
|---|---|
| `studies.journal` | the Optuna storage of this workspace: `mloptimizer dashboard` shows it |
| `STUDY/study.json` | data set, settings, those that `tune` chose, seed, machine, earlier machines |
| `STUDY/running.json` | slots and running trials; only while a search is running |
| `STUDY/cache/` | shared by its trials: programs compiled by XLA, measured batch sizes; can be deleted |
| `tuning.json` | the fastest settings that `mloptimizer tune` found on this machine |
| `STUDY/search_spaces/NAME.py` | the text of each search space as used |
| `STUDY/trial_00007/plan.json` | the training: space, parameters, epochs, seed, data set, settings, slot |
| `STUDY/trial_00007/epochs.jsonl` | one line per epoch, see below |
| `STUDY/trial_00007/attempts.jsonl` | why each attempt before the last ended; only if there were several |
| `STUDY/trial_00007/result.json` | outcome, value, metrics of the best epoch, time, failure, choices, use of hardware |
| `STUDY/trial_00007/model.weights.h5` | weights of the best epoch; only for trials worth keeping |
| `STUDY/trial_00007/checkpoints/` | from which an interrupted training resumes; only while it runs |
| `STUDY/hall_of_fame_00007/` | the same files for the hall-of-fame training of trial 7 |
| `STUDY/test_evaluation.json` | every test evaluation |

    pandas.read_json("metrics_data/STUDY/trial_00007/epochs.jsonl", lines=True)

| column of epochs.jsonl | meaning |
|---|---|
{rows}

`hardware` in result.json summarizes the trial's log in `hardware_performance_logs/`; a value that the machine does not
report is null. In Optuna each is an attribute of the trial, with `hardware_` before its name. One MB is 2**20 bytes.
docs/hardware.md explains the measurements.

| value in `hardware` | meaning |
|---|---|
{hardware}
"""
