"""Writes the files that searches on several machines leave."""

import json
from pathlib import Path
from typing import Any

from mloptimizer.hardware.read.reader import column_names
from mloptimizer.store.workspace import Workspace

GPU = {"name": "NVIDIA Stand-in", "memory_mb": 81920, "driver": "580.1", "count": 8}


def machine(host: str = "big", gpus: int = 8, **facts: Any) -> dict[str, Any]:
    listed = [{**GPU, "count": gpus}] if gpus else []
    return {"host": host, "cpu": "a processor", "cores": 16, "ram_mb": 1000, "gpus": listed, **facts}


def write_study(workspace: Workspace, name: str, **facts: Any) -> None:
    value = {"study": name, "settings": {"objective": "val_accuracy", "trials": 9, "monitor_seconds": 1.0}, **facts}
    path = workspace.study_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_training(workspace: Workspace, study: str, number: int, speed: float, **changes: Any) -> None:
    """Write a completed trial of three epochs at this speed, the first of which is slow.

    Args:
        changes: host, gpus, params, started, hardware, choices.
    """
    gpus, host = changes.get("gpus", 1), changes.get("host", "big")
    folder = workspace.trial(study, number)
    folder.mkdir(parents=True)
    plan = {
        "space": "resnet",
        "params": changes.get("params", {"width": number}),
        "dataset": {"name": "digits", "train_size": 1000},
        "settings": {"precision": "auto", "xla": "auto", "batch_size": 64},
        "slot": {"name": "s", "host": host, "gpu_ids": [f"GPU-{i}" for i in range(gpus)], "cpu_ids": [0, 1, 2, 3]},
        "started_utc": changes.get("started", "2026-01-01T12:00:00+00:00"),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    epochs = [
        {"epoch": epoch, "seconds": pace, "images_per_second": images, "ended_utc": "2026-01-01T13:00:00Z"}
        for epoch, pace, images in ((1, 50.0, 1.0), (2, 1000 / speed, speed), (3, 1000 / speed, speed))
    ]
    (folder / "epochs.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    result = {
        **{"number": number, "outcome": "completed", "value": 0.5, "seconds": 3600.0, "metrics": {}, "timings": {}},
        "hardware": changes.get("hardware", {}),
        "choices": changes.get("choices", {"precision": "float32", "XLA": "off"}),
    }
    (folder / "result.json").write_text(json.dumps(result))


def write_running(workspace: Workspace, study: str, trials: list[dict[str, Any]], **facts: Any) -> None:
    slots = [{"name": "gpu0", "host": "big", "gpu_ids": ["GPU-0"], "cpu_ids": [0]}]
    value = {"pid": 1, "host": "big", "since_utc": "2026-01-01T12:00:00+00:00", "slots": slots, "trials": trials}
    workspace.study(study).mkdir(parents=True, exist_ok=True)
    workspace.running_file(study).write_text(json.dumps({**value, **facts}))


def running_trial(**changes: Any) -> dict[str, Any]:
    trial = {"number": 3, "phase": "exploration", "space": "resnet", "slot": "gpu0", "attempt": 1, "epochs": 8}
    return {**trial, "since_utc": "2026-01-01T12:00:00+00:00", **changes}


def write_log(path: Path, rows: list[dict[str, Any]], gpus: int = 1) -> None:
    header = column_names(gpus)
    lines = [",".join(header), *(",".join(str(row.get(name, "")) for name in header) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
