"""The one place where every setting has its default, meaning, possible values, group, and what it belongs to.

From here come `system_parameters.py`, the checks of ``--set NAME=VALUE``, the table in the docs, and every list of
settings elsewhere: see `Settings.names`. A value is checked when it is given, never when it is used.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mloptimizer.config.conflicts import find_conflict
from mloptimizer.config.declaring import Group

Auto = Literal["auto"]
Switch = Literal["auto", "on", "off"]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]  # 0 may mean: none, or no limit
Amount = Annotated[float, Field(ge=0)]
Alpha = Annotated[float, Field(ge=0, le=1000)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(gt=0, le=100)]
Country = Annotated[str, Field(pattern="^[A-Za-z]{3}$", title="a country's code")]  # ISO 3166

SEARCH, PHASES, DATA, AUGMENTATION = Group("Search"), Group("Phases"), Group("Data"), Group("Augmentation")
BATCHES, OPTIMIZATION, SPEED = Group("Batches and memory"), Group("Optimization"), Group("Speed")
FAULTS, BUDGETS, MACHINE = Group("Faults"), Group("Budgets", told=False), Group("Machine")


class Settings(BaseModel):
    """All settings of a workspace; immutable plain data that travels to the workers with every plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    profile: Literal["basic", "balanced", "speed", "reproducible", "memory"] = SEARCH.run(
        "balanced",
        "a set of values for one purpose; see `mloptimizer settings --profile NAME`",
        common=True,
        told=False,
    )
    spaces: tuple[str, ...] = SEARCH.run((), "search spaces to try; their names with commas, empty: all", common=True)
    objective: Literal["val_accuracy", "val_top_k_accuracy", "val_loss"] = SEARCH.identity(
        "val_accuracy", "validation metric that ranks the trials; val_loss is minimized", common=True
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | Auto = SEARCH.identity(
        "auto", "seed of the study; auto: drawn once and recorded. Repeatable with one worker", common=True
    )
    sampler: Literal["tpe", "gp", "cmaes", "qmc", "random"] = SEARCH.run(
        "tpe", "proposes the next model; gp needs the extra 'gp', cmaes the extra 'cmaes'"
    )
    sampler_group: bool = SEARCH.run(
        False, "tpe: model the parameters of each family apart; no better and slower in our measurements"
    )
    sampler_history: CountOrNone = SEARCH.run(
        200, "tpe: it learns from the 50 best and so many of the newest trials; 0: from all"
    )
    pruner: Literal["median", "hyperband", "asha", "percentile", "patient", "none"] = SEARCH.run(
        "median", "ends exploration trials that fall behind the others"
    )
    pruner_startup_trials: CountOrNone = SEARCH.run(
        5, "trials that must have ended before the median and percentile pruners act"
    )

    trials: Count = PHASES.run(100, "models to explore", common=True, told=False)
    exploration_epochs: Count = PHASES.run(8, "epochs of an exploration trial", common=True)
    exploration_patience: Count = PHASES.run(2, "epochs without a better value that end an exploration trial")
    hall_of_fame_size: Count = PHASES.run(
        6, "best models that are trained further; never more than half of the completed trials", common=True
    )
    hall_of_fame_epochs: Count = PHASES.run(100, "epochs of a hall-of-fame training", common=True)
    hall_of_fame_patience: Count = PHASES.run(10, "epochs without a better value that end such a training")
    warm_start_hall_of_fame: bool = PHASES.run(True, "start from the exploration weights; off: from new ones")

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = DATA.identity(
        0.2, "share of the training images kept for validation, stratified by class"
    )
    train_limit: CountOrNone = DATA.identity(
        0, "use only this many training images; validation included, 0: all", common=True
    )
    data_cache: Literal["auto", "memory", "disk"] = DATA.speed(
        "auto", "where a trial reads its images from; auto: from memory if they fit into a quarter of what is free"
    )
    data_on_device: Switch = DATA.speed(
        "auto",
        "keep the images as bytes on the device, and augment them there; auto: on GPUs if they fit into a quarter of "
        "the memory",
    )
    prefetch_batches: Count | Auto = DATA.speed("auto", "batches that are made ready ahead of the training; auto: 4")

    augmentation: Literal["auto", "search", "off"] = AUGMENTATION.training(
        "auto",
        "how training images are changed; auto: flips and crops of colour images from 24 pixels on, and what is set "
        "below; search: the study proposes every strength; off: not at all",
        common=True,
    )
    flip_probability: Share | Auto = AUGMENTATION.training(
        "auto", "share of the images that are mirrored left to right; auto: 0.5 of colour images, see above"
    )
    crop_padding: Annotated[float, Field(ge=0, lt=0.5)] | Auto = AUGMENTATION.training(
        "auto", "how far images are shifted at most, as a share of their side; auto: 0.125, see above"
    )
    randaugment_magnitude: Annotated[float, Field(ge=0, le=10)] = AUGMENTATION.training(
        0.0, "strength of RandAugment's two operations an image; 0: off"
    )
    mixup_alpha: Alpha = AUGMENTATION.training(0.0, "alpha of MixUp's Beta distribution; 0: off")
    cutmix_alpha: Alpha = AUGMENTATION.training(
        0.0, "alpha of CutMix's Beta distribution; 0: off. With MixUp too, each batch gets one of the two"
    )
    erasing_probability: Share = AUGMENTATION.training(0.0, "share of the images of which a random rectangle is erased")

    batch_size: Count | Auto = BATCHES.training(
        64,
        "images per GPU and step; before the multiplier. auto: the fastest that fits, measured once per model shape",
        common=True,
    )
    batch_size_multiplier: Count | Auto = BATCHES.training("auto", "auto: 2 with several GPUs per trial, otherwise 1")
    accumulation_steps: Count | Auto = BATCHES.speed(
        "auto",
        "micro-batches that a step is computed in, with the same result and less memory; auto: 1, and more where the "
        "memory does not suffice",
    )
    min_micro_batch: Count = BATCHES.speed(
        8, "images per GPU and pass below which a model that runs out of memory is given up"
    )
    remat: Switch = BATCHES.speed(
        "auto",
        "compute activations again in the backward pass instead of keeping them; auto: where the estimated memory "
        "does not suffice otherwise",
    )
    gpu_memory_limit_mb: Count | Auto = BATCHES.speed(
        "auto", "memory of a GPU that a trial may take, MB; auto: it grows as needed"
    )
    memory_threshold: Percent = BATCHES.speed(
        80.0, "% of the main memory in use from which trials return what they can spare"
    )
    memory_ceiling: Percent = BATCHES.run(
        92.0, "% of the main memory in use from which the newest of several trials is stopped and queued again"
    )

    schedule: Literal["cosine", "one_cycle", "step", "plateau"] = OPTIMIZATION.training(
        "cosine", "course of the learning rate after the warm-up"
    )
    warmup_epochs: Amount = OPTIMIZATION.training(
        3.0, "epochs in which the learning rate rises linearly, at most a third of the epochs"
    )
    learning_rate_scaling: Literal["linear", "sqrt", "none"] = OPTIMIZATION.training(
        "linear", "how the learning rate grows with the global batch"
    )
    clipping: Literal["global_norm", "norm", "value", "adaptive", "off"] = OPTIMIZATION.training(
        "global_norm",
        "limits the gradients after the sum over the replicas: the norm of all, the norm of each weight's, each "
        "value, or each unit's norm by that of its weights",
    )
    clip_threshold: Positive | Auto = OPTIMIZATION.training(
        "auto", "limit of the clipping; auto: 1 for norms, 0.5 for value, 0.01 for adaptive"
    )
    ema_momentum: Annotated[float, Field(ge=0, lt=1)] = OPTIMIZATION.training(
        0.0, "share of the old mean in the moving average of the weights, which is validated and kept; 0: off"
    )
    nan_patience: Count = OPTIMIZATION.training(
        20, "steps in a row skipped for a loss or gradient that is not finite, before the trial goes back"
    )
    nan_retries: CountOrNone = OPTIMIZATION.training(
        2, "times that a trial goes back to its last good weights with half the learning rate, before failing"
    )
    check_numerics: bool = OPTIMIZATION.speed(
        False, "name the operation that first gives NaN or infinity; for debugging: slow, and without XLA"
    )

    precision: Literal["auto", "float32", "tf32", "mixed_float16", "mixed_bfloat16"] = SPEED.training(
        "auto",
        "number format; auto: mixed_float16 on GPUs with tensor cores, otherwise float32; tf32 needs capability 8.0",
        common=True,
    )
    xla: Switch = SPEED.speed("auto", "compile the training step; auto: on GPUs where the steps to come pay for it")
    steps_per_execution: Count | Auto = SPEED.speed(
        "auto", "training steps that run in one call; auto: 8 on GPUs, 1 on a CPU"
    )
    deterministic: bool = SPEED.training(
        False, "only operations that give the same result every time; slower, and without XLA"
    )
    autotune: Switch = SPEED.run(
        "auto", "measure precision, XLA, batch and pipeline once before a study; auto: on machines with a GPU"
    )
    top_k: Count = SPEED.training(5, "k of the top-k accuracy, lowered to stay below the number of classes")

    checkpoint_epochs: CountOrNone = FAULTS.speed(
        1, "epochs between two checkpoints, from which a trial that was cut off goes on; 0: none"
    )
    hang_minutes: Positive = FAULTS.run(
        10.0, "minutes without a training step after which a trial counts as hung, and its process is ended"
    )
    compile_minutes: Positive = FAULTS.run(
        30.0, "minutes that a trial has in addition until its first step: building and compiling are silent"
    )
    trial_minutes: Amount = FAULTS.run(0.0, "minutes that a trial may train, all its attempts together; 0: no limit")
    min_free_disk_mb: CountOrNone = FAULTS.run(
        200, "free space of the workspace's disk below which the search pauses until there is more, MB"
    )

    max_hours: Amount = BUDGETS.run(
        0.0, "hours after which the search stops; running trials go on when it is continued", common=True
    )
    max_kwh: Amount = BUDGETS.run(
        0.0, "energy of its GPUs and its share of the CPU's after which the search stops, kWh"
    )
    max_disk_mb: Amount = BUDGETS.run(
        0.0, "space that the study's records and weights may take, MB; the search stops when it is reached"
    )
    target: float | Literal["none"] = BUDGETS.run("none", "value of the objective to stop at", common=True)
    stop_when_stagnant: CountOrNone = BUDGETS.run(0, "trials in a row without a better value that end the exploration")

    workers: Count | Auto = MACHINE.speed(
        "auto", "trials at a time; auto: as many as GPUs allow, without a GPU as cores and memory allow", common=True
    )
    gpus_per_trial: Count | Auto = MACHINE.speed(
        "auto", "auto: one while there are trials enough; otherwise what was measured to train most per hour"
    )
    trials_per_gpu: Annotated[int, Field(ge=1, le=16)] | Auto = MACHINE.speed(
        1,
        "trials that share a GPU, with one GPU per trial; auto: up to 4, as measured utilisation and free memory "
        "allow, and fewer again where that does not pay. Not run on a GPU yet",
    )
    cpu_replicas: Count = MACHINE.speed(
        1, "split the CPU into so many logical devices under MirroredStrategy; to try it without GPUs"
    )
    start_method: Literal["auto", "forkserver", "spawn"] = MACHINE.run(
        "auto", "how trial processes start; auto: forkserver, spawn where that fails"
    )
    engine: Literal["process", "thread", "ray"] = MACHINE.run(
        "process",
        "where trials run: processes of this machine; ray: a Ray cluster, needs the extra 'ray'; thread: one by one "
        "in the search's own process, for breakpoints: nothing ends a trial that hangs or takes too long",
    )
    ray_address: str = MACHINE.run(
        "auto", "the Ray cluster: HOST:PORT; auto: the one that this machine is in; local: start one here"
    )
    ray_wait_minutes: Positive = MACHINE.run(
        10.0, "minutes that the search waits for a Ray cluster that has no room for a trial"
    )
    checkpoint_url: str = MACHINE.run(
        "",
        "where trials of a Ray cluster keep their checkpoints: a file, s3 or gs URL; empty: on the disk of the "
        "search, through Ray",
    )
    nice: Annotated[int, Field(ge=0, le=19)] = MACHINE.speed(
        0, "how far trials step back for other programs of this machine, 0 to 19"
    )
    monitor_seconds: Annotated[float, Field(ge=0.1, le=60)] = MACHINE.speed(
        1.0, "seconds between two rows of the hardware log"
    )
    grid_co2: Amount | Country = MACHINE.run(
        475.0,
        "CO2 of a kWh of your grid, g; 475: the world's mean; or a country's ISO code such as DEU, extra 'carbon'",
    )
    storage: str = MACHINE.run(
        "", "Optuna storage URL; empty: the journal metrics_data/studies.journal of this workspace", told=False
    )

    @field_validator("spaces", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("*")
    @classmethod
    def _check_can_be_kept(cls, value: object) -> object:
        """Refuse what JSON and databases cannot keep: infinity, and numbers of more than 64 bits."""
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("is not finite")
        if isinstance(value, int) and value.bit_length() > 63:
            raise ValueError("is too large")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        conflict = find_conflict(self)
        if conflict:
            raise ValueError(conflict)
        return self

    @classmethod
    def declared(cls, name: str) -> Mapping[str, Any]:
        """Return what the setting declares: default, description, group, belongs_to, common and told."""
        field = cls.model_fields[name]
        facts = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        return {"default": field.default, "description": field.description, **facts}

    @classmethod
    def names(cls, *belongs_to: str, **declared: object) -> tuple[str, ...]:
        """Return the settings, in order, that belong to one of these and declare these facts; without any, all."""
        found = {name: cls.declared(name) for name in cls.model_fields}
        mine = {name for name, facts in found.items() if not belongs_to or facts["belongs_to"] in belongs_to}
        return tuple(name for name, facts in found.items() if name in mine and declared.items() <= facts.items())
