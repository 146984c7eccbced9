"""Declares every setting: its default, meaning, possible values, group, and what it belongs to.

`system_parameters.py`, the checks of ``--set NAME=VALUE``, the table in the docs, and every list of settings elsewhere
(see `Settings.names`) are derived from this file. A value is checked when it is given, never when it is used.
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
FAULTS, BUDGETS, MACHINE = Group("Faults"), Group("Budgets", announced=False), Group("Machine")


class Settings(BaseModel):
    """All settings of a workspace; immutable plain data that travels to the workers with every plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    profile: Literal["basic", "balanced", "speed", "reproducible", "memory"] = SEARCH.run(
        "balanced",
        "set of values for one purpose; see `mloptimizer settings --profile NAME`",
        common=True,
        announced=False,
    )
    spaces: tuple[str, ...] = SEARCH.run((), "search spaces to try; names separated by commas, empty: all", common=True)
    objective: Literal["val_accuracy", "val_top_k_accuracy", "val_loss"] = SEARCH.identity(
        "val_accuracy", "validation metric that ranks the trials; val_loss is minimized", common=True
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | Auto = SEARCH.identity(
        "auto", "seed of the study; auto: drawn once and recorded. Results repeat with one worker only", common=True
    )
    sampler: Literal["tpe", "gp", "cmaes", "qmc", "random"] = SEARCH.run(
        "tpe", "proposes the next model; gp needs the extra 'gp', cmaes the extra 'cmaes'"
    )
    sampler_group: bool = SEARCH.run(
        False, "tpe: model each family's parameters separately; slower and no better in our measurements"
    )
    sampler_history: CountOrNone = SEARCH.run(200, "tpe: newest trials to learn from, besides the 50 best; 0: all")
    pruner: Literal["median", "hyperband", "asha", "percentile", "patient", "none"] = SEARCH.run(
        "median", "stops exploration trials that fall behind the others"
    )
    pruner_startup_trials: CountOrNone = SEARCH.run(5, "trials that must end before median and percentile pruners act")

    trials: Count = PHASES.run(100, "models to explore", common=True, announced=False)
    exploration_epochs: Count = PHASES.run(8, "epochs of an exploration trial", common=True)
    exploration_patience: Count = PHASES.run(
        2, "epochs without improvement after which an exploration trial stops early"
    )
    hall_of_fame_size: Count = PHASES.run(
        6, "best models to train further; at most half of the completed trials", common=True
    )
    hall_of_fame_epochs: Count = PHASES.run(100, "epochs of a hall-of-fame trial", common=True)
    hall_of_fame_patience: Count = PHASES.run(
        10, "epochs without improvement after which a hall-of-fame trial stops early"
    )
    warm_start_hall_of_fame: bool = PHASES.run(True, "start from the exploration weights; false: from new ones")

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = DATA.identity(
        0.2, "share of the training images kept for validation, stratified by class"
    )
    train_limit: CountOrNone = DATA.identity(
        0, "use at most this many training images; 0: all. Validation images are taken from them", common=True
    )
    data_cache: Literal["auto", "memory", "disk"] = DATA.speed(
        "auto", "where trials read images from; auto: memory if they fit into a quarter of what is free"
    )
    data_on_device: Switch = DATA.speed(
        "auto",
        "keep images on the device and augment them there; auto: on a GPU if they fit into a quarter of its memory",
    )
    prefetch_batches: Count | Auto = DATA.speed("auto", "batches prepared ahead of the training; auto: 4")

    augmentation: Literal["auto", "search", "off"] = AUGMENTATION.training(
        "auto",
        "how training images are changed; auto: flips and crops for color images of at least 24 pixels, and the "
        "settings below; search: the study proposes every strength; off: not at all",
        common=True,
    )
    flip_probability: Share | Auto = AUGMENTATION.training(
        "auto", "share of images mirrored left to right; auto: 0.5 for color images, see augmentation"
    )
    crop_padding: Annotated[float, Field(ge=0, lt=0.5)] | Auto = AUGMENTATION.training(
        "auto", "largest shift of an image, as a share of its side; auto: 0.125, see augmentation"
    )
    randaugment_magnitude: Annotated[float, Field(ge=0, le=10)] = AUGMENTATION.training(
        0.0, "strength of RandAugment, which applies two operations per image; 0: off"
    )
    mixup_alpha: Alpha = AUGMENTATION.training(0.0, "alpha of MixUp's Beta distribution; 0: off")
    cutmix_alpha: Alpha = AUGMENTATION.training(
        0.0, "alpha of CutMix's Beta distribution; 0: off. With MixUp too, each batch gets one of the two"
    )
    erasing_probability: Share = AUGMENTATION.training(0.0, "share of images in which a random rectangle is erased")

    batch_size: Count | Auto = BATCHES.training(
        64,
        "images per GPU and step, before the multiplier; auto: the fastest that fits, measured once per model shape",
        common=True,
    )
    batch_size_multiplier: Count | Auto = BATCHES.training(
        "auto", "factor for the batch size; auto: 2 with several GPUs per trial, otherwise 1"
    )
    accumulation_steps: Count | Auto = BATCHES.speed(
        "auto", "micro-batches per step, for less memory and the same result; auto: 1, or more if memory is short"
    )
    min_micro_batch: Count = BATCHES.speed(8, "smallest micro-batch per GPU; a model that needs a smaller one fails")
    remat: Switch = BATCHES.speed(
        "auto", "recompute activations in the backward pass to save memory; auto: if the model is too large otherwise"
    )
    gpu_memory_limit_mb: Count | Auto = BATCHES.speed(
        "auto", "GPU memory that a trial may use, MB; auto: grows as needed"
    )
    memory_threshold: Percent = BATCHES.speed(80.0, "% of main memory in use above which trials release spare memory")
    memory_ceiling: Percent = BATCHES.run(
        92.0, "% of main memory in use above which the newest of several trials is stopped and queued again"
    )

    schedule: Literal["cosine", "one_cycle", "step", "plateau"] = OPTIMIZATION.training(
        "cosine", "learning rate schedule after the warm-up"
    )
    warmup_epochs: Amount = OPTIMIZATION.training(
        3.0, "epochs in which the learning rate rises linearly; at most a third of all epochs"
    )
    learning_rate_scaling: Literal["linear", "sqrt", "none"] = OPTIMIZATION.training(
        "linear", "how the learning rate grows with the global batch size"
    )
    clipping: Literal["global_norm", "norm", "value", "adaptive", "off"] = OPTIMIZATION.training(
        "global_norm",
        "gradient clipping, after the sum over replicas; global_norm: all gradients together; norm: each weight "
        "tensor; value: each element; adaptive: each unit, relative to the norm of its weights",
    )
    clip_threshold: Positive | Auto = OPTIMIZATION.training(
        "auto", "clipping threshold; auto: 1 for norms, 0.5 for value, 0.01 for adaptive"
    )
    ema_momentum: Annotated[float, Field(ge=0, lt=1)] = OPTIMIZATION.training(
        0.0, "momentum of a moving average of the weights, which is validated and kept instead of them; 0: off"
    )
    nan_patience: Count = OPTIMIZATION.training(
        20, "steps in a row skipped for a NaN or infinite loss or gradient before the last good weights are restored"
    )
    nan_retries: CountOrNone = OPTIMIZATION.training(
        2, "times that a trial restores its last good weights, with half the learning rate, before it fails"
    )
    check_numerics: bool = OPTIMIZATION.speed(
        False, "name the first operation that gives NaN or infinity; for debugging: slow, and without XLA"
    )

    precision: Literal["auto", "float32", "tf32", "mixed_float16", "mixed_bfloat16"] = SPEED.training(
        "auto",
        "number format; auto: mixed_float16 on GPUs with tensor cores, otherwise float32; tf32 needs capability 8.0",
        common=True,
    )
    xla: Switch = SPEED.speed("auto", "compile the training step; auto: on GPUs, if enough steps follow to repay it")
    steps_per_execution: Count | Auto = SPEED.speed("auto", "training steps per call; auto: 8 on GPUs, 1 on a CPU")
    deterministic: bool = SPEED.training(False, "use only operations with repeatable results; slower, and without XLA")
    autotune: Switch = SPEED.run(
        "auto", "measure precision, XLA, batch size and pipeline once before a study; auto: on machines with a GPU"
    )
    top_k: Count = SPEED.training(5, "k of the top-k accuracy, lowered to stay below the number of classes")

    checkpoint_epochs: CountOrNone = FAULTS.speed(
        1, "epochs between two checkpoints, from which an interrupted trial resumes; 0: no checkpoints"
    )
    hang_minutes: Positive = FAULTS.run(10.0, "minutes without a training step after which a trial is killed as hung")
    compile_minutes: Positive = FAULTS.run(30.0, "extra minutes until the first step, for building and compiling")
    trial_minutes: Amount = FAULTS.run(0.0, "minutes that a trial may train, over all its attempts; 0: no limit")
    min_free_disk_mb: CountOrNone = FAULTS.run(
        200, "free space on the workspace's disk below which the search pauses until there is more, MB"
    )

    max_hours: Amount = BUDGETS.run(
        0.0, "hours after which the search stops; 0: no limit. Running trials continue on resume", common=True
    )
    max_kwh: Amount = BUDGETS.run(
        0.0, "energy of the search's GPUs and its share of the CPU after which it stops, kWh; 0: no limit"
    )
    max_disk_mb: Amount = BUDGETS.run(0.0, "size of records and weights at which the search stops, MB; 0: no limit")
    target: float | Literal["none"] = BUDGETS.run("none", "value of the objective to stop at", common=True)
    stop_when_stagnant: CountOrNone = BUDGETS.run(
        0, "trials in a row without improvement after which the exploration ends; 0: never"
    )

    workers: Count | Auto = MACHINE.speed(
        "auto", "trials at a time; auto: as many as the GPUs allow, without GPUs as cores and memory allow", common=True
    )
    gpus_per_trial: Count | Auto = MACHINE.speed(
        "auto", "GPUs per trial; auto: one while there are enough trials, otherwise as many as train most per hour"
    )
    trials_per_gpu: Annotated[int, Field(ge=1, le=16)] | Auto = MACHINE.speed(
        1,
        "trials that share a GPU, with one GPU per trial; auto: up to 4, as measured utilization and free memory "
        "allow, and fewer again if that does not pay. Not yet run on a GPU",
    )
    cpu_replicas: Count = MACHINE.speed(
        1, "logical devices to split the CPU into, to try MirroredStrategy without GPUs"
    )
    start_method: Literal["auto", "forkserver", "spawn"] = MACHINE.run(
        "auto", "how trial processes start; auto: forkserver, or spawn if that fails"
    )
    engine: Literal["process", "thread", "ray"] = MACHINE.run(
        "process",
        "where trials run; process: in processes on this machine; ray: on a Ray cluster, needs the extra 'ray'; "
        "thread: one at a time in the search's process, for breakpoints; nothing stops trials that hang",
    )
    ray_address: str = MACHINE.run(
        "auto", "Ray cluster, HOST:PORT; auto: this machine's cluster; local: start one here"
    )
    ray_wait_minutes: Positive = MACHINE.run(10.0, "minutes to wait for a Ray cluster that has no room for a trial")
    checkpoint_url: str = MACHINE.run(
        "", "where Ray trials keep checkpoints: a file, s3 or gs URL; empty: on the disk of the search, through Ray"
    )
    nice: Annotated[int, Field(ge=0, le=19)] = MACHINE.speed(
        0, "nice value of trial processes; the higher, the more they yield to other programs"
    )
    monitor_seconds: Annotated[float, Field(ge=0.1, le=60)] = MACHINE.speed(
        1.0, "seconds between two rows of the hardware log"
    )
    grid_co2: Amount | Country = MACHINE.run(
        475.0, "CO2 of your grid, g per kWh; 475: world average; or a country's ISO code such as DEU, extra 'carbon'"
    )
    storage: str = MACHINE.run(
        "", "Optuna storage URL; empty: metrics_data/studies.journal in this workspace", announced=False
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
        if conflict := find_conflict(self):
            raise ValueError(conflict)
        return self

    @classmethod
    def declared(cls, name: str) -> Mapping[str, Any]:
        """Return what the setting declares: default, description, group, belongs_to, common and announced."""
        field: Any = cls.model_fields[name]
        return {"default": field.default, "description": field.description, **(field.json_schema_extra or {})}

    @classmethod
    def names(cls, *belongs_to: str, **declared: object) -> tuple[str, ...]:
        """Return the settings, in order, that belong to one of these and declare these facts; without any, all."""
        return tuple(
            name
            for name, facts in ((name, cls.declared(name)) for name in cls.model_fields)
            if (not belongs_to or facts["belongs_to"] in belongs_to) and declared.items() <= facts.items()
        )
