"""The command line on a machine whose GPU is the stand-in for NVIDIA's library: what trains is the CPU.

python -m tests.pretended_gpu search --dataset digits --set start_method=spawn
"""

from dataclasses import replace
from typing import Any

from mloptimizer.core.events import Emit, ShouldStop
from mloptimizer.core.nouns import Slot, TrialPlan, TrialResult
from mloptimizer.training import worker


def run_plan(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Train as a worker does, with the slot's GPU in the hardware log, but none for TensorFlow, which sees none."""
    from mloptimizer.training import trial

    run_trial = trial.run_trial

    def run_on_cpu(plan: TrialPlan, slot: Slot, *more: Any) -> TrialResult:
        return run_trial(plan, replace(slot, gpu_ids=()), *more)

    trial.run_trial = run_on_cpu
    return worker.run_plan(plan, slot, emit, should_stop)


if __name__ == "__main__":
    import importlib

    from mloptimizer.app import engine_choice
    from mloptimizer.cli.main import main

    engine_choice.run_plan = importlib.import_module(
        "tests.pretended_gpu"
    ).run_plan  # a trial's process cannot import __main__
    main()
