"""Says what each file and each column in `metrics_data/` is."""

from mloptimizer.hardware.analysis.diagnosis import HARDWARE_FIGURES

EPOCH_COLUMNS = {
    "epoch": "number of the epoch, from 1",
    "seconds": "wall time of the epoch, validation included, s",
    "ended_utc": "when it ended, ISO 8601 in UTC, by the clock of the hardware log",
    "loss": "mean training loss, label smoothing and regularisation included",
    "accuracy": "share of the training images classified rightly, 0 to 1",
    "top_k_accuracy": "share of the training images whose class is among the k likeliest, 0 to 1",
    "val_loss": "mean cross-entropy on the validation split, without label smoothing",
    "val_accuracy": "accuracy on the validation split, 0 to 1",
    "val_top_k_accuracy": "top-k accuracy on the validation split, 0 to 1",
    "learning_rate": "learning rate at the end of the epoch",
    "images_per_second": "training images per second of training, validation not counted",
    "gradient_norm": "mean global norm of the gradients before clipping",
    "skipped_steps": "steps skipped because loss or gradient was not finite",
    "data_wait_percent": "share of the training time that the step waited for its batch, %",
}


def render_metrics_readme() -> str:
    """Return the README of the folder: what each file and each column is, with units."""
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in EPOCH_COLUMNS.items())
    figures = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in HARDWARE_FIGURES.items())
    return f"""# metrics_data: what the searches learned

| file | what it holds |
|---|---|
| `studies.journal` | the Optuna storage of this workspace: `mloptimizer dashboard` shows it |
| `STUDY/study.json` | data set, settings, what `tune` filled in, seed, machine, earlier machines |
| `STUDY/running.json` | slots and running trials of the search that is under way; only while it is |
| `STUDY/cache/` | what its trials share: programs compiled by XLA, measured batch sizes; may be removed |
| `tuning.json` | what `mloptimizer tune` found fastest on this machine |
| `STUDY/search_spaces/NAME.py` | the text of each search space as it was used |
| `STUDY/trial_00007/plan.json` | what was trained: space, parameters, epochs, seed, data set, settings, slot |
| `STUDY/trial_00007/epochs.jsonl` | one line per epoch, see below |
| `STUDY/trial_00007/attempts.jsonl` | why each attempt ended that was not the last; only where there were several |
| `STUDY/trial_00007/result.json` | outcome, value, best epoch's figures, time, failure, choices, use of hardware |
| `STUDY/trial_00007/model.weights.h5` | weights of the best epoch; only of trials that are worth keeping |
| `STUDY/trial_00007/checkpoints/` | from where the training goes on if it is cut off; only while it runs |
| `STUDY/hall_of_fame_00007/` | the same files for the long training of trial 7 |
| `STUDY/test_evaluation.json` | every reading of the test set |

    pandas.read_json("metrics_data/STUDY/trial_00007/epochs.jsonl", lines=True)

| column of epochs.jsonl | meaning |
|---|---|
{rows}

`hardware` in result.json says in a few figures what the hardware did, from the trial's log in
`hardware_performance_logs/`; a figure that the machine does not tell is null. In Optuna each is an attribute of the
trial, with `hardware_` before its name. One MB is 2**20 bytes. What is measured how: docs/hardware.md.

| figure of `hardware` | meaning |
|---|---|
{figures}
"""
