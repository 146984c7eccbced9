"""Asks TensorFlow, in a process of its own, what it can do here, and evaluates the answer.

Nothing here imports TensorFlow; a crash or hang of its process is an answer like any other.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mloptimizer.config.settings import Settings
from mloptimizer.core.check import Check
from mloptimizer.hardware.read.nvml import Gpu

_PROBE_SECONDS = 180
_GPU_BUILD = "pip install 'mloptimizer[gpu]'"
_FIRST_TENSOR_CORES = [7, 0]  # compute capability


def run_probe(timeout_seconds: float = _PROBE_SECONDS) -> Mapping[str, Any]:
    """Return what `mloptimizer.training.tensorflow_probe` prints, or its failure as ``{"error": TEXT}``."""
    root = str(Path(__file__).parents[2])
    run = "runpy.run_module('mloptimizer.training.tensorflow_probe', run_name='__main__')"
    code = f"import runpy, sys; sys.path.append({root!r}); {run}"
    try:  # -P: ignores files of the current folder that are named like a package
        text: Any = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
        command = [sys.executable, "-P", "-c", code]
        done = subprocess.run(command, **text, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"did not answer within {timeout_seconds:g} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        facts: Mapping[str, Any] = json.loads(lines[-1])
        return facts
    said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
    return {"error": f"signal {-done.returncode}" if done.returncode < 0 else said[-1]}


def check_tensorflow(
    facts: Mapping[str, Any], gpus: Sequence[Gpu], settings: Settings, others: str = ""
) -> list[Check]:
    """Return what the probe's facts mean for a machine with these GPUs (as NVML lists them) and these settings.

    Args:
        others: names the GPUs of other vendors.
    """
    if "error" in facts:
        advice = "pip install --force-reinstall tensorflow keras, or see whether this processor has AVX"
        return [Check("TensorFlow", False, str(facts["error"]), advice), _check_gpus({"gpus": []}, gpus, True, others)]
    cuda = f"built for CUDA {facts['cuda_build']}" if facts["cuda_build"] else "built without CUDA"
    return [
        Check("TensorFlow", True, f"{facts['tensorflow']}, Keras {facts['keras']}, {cuda}"),
        _check_gpus(facts, gpus, False, others),
        _check_nccl(facts),
        _check_precision(facts, settings),
        _check_xla(facts, settings),
    ]


def _check_gpus(facts: Mapping[str, Any], gpus: Sequence[Gpu], silent: bool, others: str) -> Check:
    seen = facts["gpus"]
    words = [_gpu_words(gpu) for gpu in gpus]
    if not gpus and (others or not seen):
        found = f"TensorFlow sees {len(seen)}; {others}" if seen else others or "none, or no NVIDIA driver"
        return Check("GPUs", None, f"{found}: trials train on the CPU")
    if silent:
        return Check("GPUs", None, f"{', '.join(words)}; TensorFlow could not be asked")
    if seen and any(gpu.mig for gpu in gpus):  # TensorFlow sees only the first
        return Check("GPUs", None, f"{', '.join(words)}; partitioned (MIG)", "a process can use one instance at a time")
    if len(seen) < len(gpus):
        found = f"NVIDIA's driver lists {len(gpus)} ({', '.join(words)}), TensorFlow sees {len(seen)}"
        return Check("GPUs", False, found, _GPU_BUILD)
    if len(seen) > len(gpus):
        found = f"TensorFlow sees {len(seen)}, NVIDIA's management library lists {len(gpus)}"
        return Check("GPUs", False, found, "repair the NVIDIA driver: libnvidia-ml.so.1 must load")
    return Check("GPUs", True, ", ".join(words))


def _gpu_words(gpu: Gpu) -> str:
    memory = f"{gpu.memory_mb / 1024:.0f} GB" if gpu.memory_mb else "memory unknown"
    capability = ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability else "unknown"
    return f"{gpu.label}: {gpu.name or 'GPU'}, {memory}, compute capability {capability}"


def _check_nccl(facts: Mapping[str, Any]) -> Check:
    works = facts["nccl"]
    if works is None:
        return Check("NCCL", None, "not needed: it joins two or more GPUs")
    if works is True:
        return Check("NCCL", True, f"sums over {len(facts['gpus'])} GPUs")
    return Check("NCCL", False, str(works), f"{_GPU_BUILD}, or --set gpus_per_trial=1")


def _check_precision(facts: Mapping[str, Any], settings: Settings) -> Check:
    results = facts["precision"]
    for name, error in results.items():
        if error is not True:
            advice = "--set precision=float32" if name != "float32" else _GPU_BUILD
            return Check("precision", False, f"{name}: {error}", advice)
    wanted = settings.precision
    if not facts["gpus"] and wanted.startswith("mixed"):
        return Check("precision", None, f"{wanted} on a CPU is slower than float32", "--set precision=auto")
    capable = bool(facts["gpus"]) and min(gpu["compute_capability"] for gpu in facts["gpus"]) >= _FIRST_TENSOR_CORES
    chosen = ("mixed_float16" if capable else "float32") if wanted == "auto" else wanted
    return Check("precision", True, f"{', '.join(results)} work; trials use {chosen}")


def _check_xla(facts: Mapping[str, Any], settings: Settings) -> Check:
    works = facts["xla"]
    if works is True:
        return Check("XLA", True, "compiles")
    if settings.xla == "on":
        return Check("XLA", False, str(works), "--set xla=off")
    return Check("XLA", None, str(works), "" if settings.xla == "off" else "--set xla=off, if trials fail to compile")
