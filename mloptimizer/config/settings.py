"""The one place where every setting has its default, its meaning and its possible values.

From here come `system_parameters.py`, the checks of ``--set NAME=VALUE`` and the table in the docs. A value is checked
when it is given, never when it is used.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mloptimizer.config.conflicts import find_conflict

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
_COUNTRY = "^[A-Za-z]{3}$"  # ISO 3166
Percent = Annotated[float, Field(gt=0, le=100)]


class Settings(BaseModel):
    """All settings of a workspace; immutable plain data that travels to the workers with every plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    profile: Literal["basic", "balanced", "speed", "reproducible", "memory"] = Field(
        "balanced",
        description="a row of values for the settings that are at their default; `mloptimizer settings --profile NAME`",
    )

    # What is searched
    spaces: tuple[str, ...] = Field((), description="search spaces to choose from, separated by commas; empty: all")
    objective: Literal["val_accuracy", "val_top_k_accuracy", "val_loss"] = Field(
        "val_accuracy", description="figure on the validation split that ranks the trials; val_loss is minimised"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | Auto = Field(
        "auto", description="seed of the study; auto: drawn once and recorded. Repeatable with one worker"
    )
    sampler: Literal["tpe", "gp", "cmaes", "qmc", "random"] = Field(
        "tpe", description="proposes the next model; gp needs the extra 'gp', cmaes the extra 'cmaes'"
    )
    sampler_group: bool = Field(
        False, description="tpe: model the parameters of each family apart; no better and slower in our measurements"
    )
    sampler_history: Annotated[int, Field(ge=0)] = Field(
        200, description="tpe: it learns from the 50 best and so many of the newest trials; 0: from all"
    )
    pruner: Literal["median", "hyperband", "asha", "percentile", "patient", "none"] = Field(
        "median", description="ends exploration trials that fall behind the others"
    )
    pruner_startup_trials: Annotated[int, Field(ge=0)] = Field(
        5, description="trials that must have ended before the median and percentile pruners act"
    )

    # The two phases
    trials: Count = Field(100, description="models to explore")
    exploration_epochs: Count = Field(8, description="epochs of an exploration trial")
    exploration_patience: Count = Field(2, description="epochs without a better value that end an exploration trial")
    hall_of_fame_size: Count = Field(
        6, description="best models trained on for long; never more than half of the completed trials"
    )
    hall_of_fame_epochs: Count = Field(100, description="epochs of a hall-of-fame training")
    hall_of_fame_patience: Count = Field(10, description="epochs without a better value that end such a training")
    warm_start_hall_of_fame: bool = Field(True, description="start from the exploration weights; off: from new ones")

    # Data
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of the training images kept for validation, stratified by class"
    )
    train_limit: Annotated[int, Field(ge=0)] = Field(
        0, description="use only so many images of the training set, validation included; 0: all"
    )

    data_cache: Literal["auto", "memory", "disk"] = Field(
        "auto",
        description="where a trial reads its images from; auto: from memory if they fit into a quarter of what is free",
    )
    data_on_device: Literal["auto", "on", "off"] = Field(
        "auto",
        description="keep the images as bytes on the device, and augment them there; auto: on GPUs if they fit into a "
        "quarter of the memory",
    )
    prefetch_batches: Count | Auto = Field(
        "auto", description="batches that are made ready ahead of the training; auto: 4"
    )

    # Augmentation: a search space's own parameter of the same name counts instead
    augmentation: Literal["auto", "search", "off"] = Field(
        "auto",
        description="auto: flips and crops of colour images from 24 pixels on, and what is set below; search: the "
        "study proposes every strength; off: none",
    )
    flip_probability: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        "auto", description="share of the images that are mirrored left to right; auto: 0.5 of colour images, see above"
    )
    crop_padding: Annotated[float, Field(ge=0, lt=0.5)] | Auto = Field(
        "auto", description="how far images are shifted at most, as a share of their side; auto: 0.125, see above"
    )
    randaugment_magnitude: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="strength of RandAugment's two operations an image; 0: off"
    )
    mixup_alpha: Annotated[float, Field(ge=0)] = Field(0.0, description="alpha of MixUp's Beta distribution; 0: off")
    cutmix_alpha: Annotated[float, Field(ge=0)] = Field(
        0.0, description="alpha of CutMix's Beta distribution; 0: off. With MixUp too, each batch gets one of the two"
    )
    erasing_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the images of which a random rectangle is erased"
    )

    # Batches and memory
    batch_size: Count | Auto = Field(
        64,
        description="images per GPU and step, before the multiplier; auto: the fastest that fits, measured once per "
        "model shape",
    )
    batch_size_multiplier: Count | Auto = Field("auto", description="auto: 2 with several GPUs per trial, otherwise 1")
    accumulation_steps: Count | Auto = Field(
        "auto",
        description="micro-batches that a step is computed in, with the same result and less memory; auto: 1, and more "
        "where the memory does not suffice",
    )
    min_micro_batch: Count = Field(
        8, description="images per GPU and pass below which a model that runs out of memory is given up"
    )
    remat: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compute activations again in the backward pass instead of keeping them; auto: where the estimated "
        "memory does not suffice otherwise",
    )
    gpu_memory_limit_mb: Count | Auto = Field(
        "auto", description="memory of a GPU that a trial may take, MB; auto: it grows as needed"
    )
    memory_threshold: Percent = Field(
        80.0, description="% of the main memory in use from which trials return what they can spare"
    )
    memory_ceiling: Percent = Field(
        92.0,
        description="% of the main memory in use from which the newest of several trials is stopped and queued again",
    )

    # Optimization
    schedule: Literal["cosine", "one_cycle", "step", "plateau"] = Field(
        "cosine", description="course of the learning rate after the warm-up"
    )
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(
        3.0, description="epochs in which the learning rate rises linearly, at most a third of the epochs"
    )
    learning_rate_scaling: Literal["linear", "sqrt", "none"] = Field(
        "linear", description="how the learning rate grows with the global batch"
    )
    clipping: Literal["global_norm", "norm", "value", "adaptive", "off"] = Field(
        "global_norm",
        description="limits the gradients after the sum over the replicas: the norm of all, the norm of each weight's, "
        "each value, or each unit's norm by that of its weights",
    )
    clip_threshold: Annotated[float, Field(gt=0)] | Auto = Field(
        "auto", description="limit of the clipping; auto: 1 for norms, 0.5 for value, 0.01 for adaptive"
    )
    ema_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of the old mean in the moving average of the weights, which is validated and kept; 0: off",
    )
    nan_patience: Count = Field(
        20,
        description="steps in a row skipped for a loss or gradient that is not finite, before the trial goes back",
    )
    nan_retries: Annotated[int, Field(ge=0)] = Field(
        2,
        description="times that a trial goes back to its last good weights with half the learning rate, before failing",
    )
    check_numerics: bool = Field(
        False, description="name the operation that first gives NaN or infinity; for debugging: slow, and without XLA"
    )

    # Speed
    precision: Literal["auto", "float32", "tf32", "mixed_float16", "mixed_bfloat16"] = Field(
        "auto",
        description="auto: mixed_float16 on GPUs with tensor cores, otherwise float32; tf32 needs capability 8.0",
    )
    xla: Literal["auto", "on", "off"] = Field(
        "auto", description="compile the training step; auto: on GPUs where the steps to come pay for it"
    )
    steps_per_execution: Count | Auto = Field(
        "auto", description="training steps that run in one call; auto: 8 on GPUs, 1 on a CPU"
    )
    deterministic: bool = Field(
        False, description="only operations that give the same result every time; slower, and without XLA"
    )
    autotune: Literal["auto", "on", "off"] = Field(
        "auto",
        description="measure precision, XLA, batch and pipeline once before a study; auto: on machines with a GPU",
    )
    top_k: Count = Field(5, description="k of the top-k accuracy, lowered to stay below the number of classes")

    # Faults: nothing that was learned is lost
    checkpoint_epochs: Annotated[int, Field(ge=0)] = Field(
        1, description="epochs between two checkpoints, from which a trial that was cut off goes on; 0: none"
    )
    hang_minutes: Annotated[float, Field(gt=0)] = Field(
        10.0, description="minutes without a training step after which a trial counts as hung, and its process is ended"
    )
    compile_minutes: Annotated[float, Field(gt=0)] = Field(
        30.0, description="minutes that a trial has in addition until its first step: building and compiling are silent"
    )
    trial_minutes: Annotated[float, Field(ge=0)] = Field(
        0.0, description="minutes that a trial may train, all its attempts together; 0: no limit"
    )
    min_free_disk_mb: Annotated[int, Field(ge=0)] = Field(
        200, description="free space of the workspace's disk below which the search pauses until there is more, MB"
    )

    # Budgets of one run of the search; 0: none
    max_hours: Annotated[float, Field(ge=0)] = Field(
        0.0, description="hours after which the search stops; running trials go on when it is continued"
    )
    max_kwh: Annotated[float, Field(ge=0)] = Field(
        0.0, description="energy of its GPUs and its share of the CPU's after which the search stops, kWh"
    )
    max_disk_mb: Annotated[float, Field(ge=0)] = Field(
        0.0, description="space that the study's records and weights may take, MB; the search stops when it is reached"
    )
    target: float | Literal["none"] = Field("none", description="value of the objective at which the search stops")
    stop_when_stagnant: Annotated[int, Field(ge=0)] = Field(
        0, description="trials in a row without a better value that end the exploration"
    )

    # Machine
    workers: Count | Auto = Field(
        "auto", description="trials at a time; auto: as many as GPUs allow, without a GPU as cores and memory allow"
    )
    gpus_per_trial: Count | Auto = Field(
        "auto",
        description="auto: one while there are trials enough; otherwise what was measured to train most per hour",
    )
    trials_per_gpu: Annotated[int, Field(ge=1, le=16)] | Auto = Field(
        1,
        description="trials that share a GPU, with one GPU per trial; auto: up to 4, as measured utilisation and free "
        "memory allow, and fewer again where that does not pay. Not run on a GPU yet",
    )
    cpu_replicas: Count = Field(
        1, description="split the CPU into so many logical devices under MirroredStrategy; to try it without GPUs"
    )
    start_method: Literal["auto", "forkserver", "spawn"] = Field(
        "auto", description="how trial processes start; auto: forkserver, spawn where that fails"
    )
    engine: Literal["process", "ray"] = Field(
        "process", description="where trials run: processes of this machine, or a Ray cluster; needs the extra 'ray'"
    )
    ray_address: str = Field(
        "auto", description="the Ray cluster: HOST:PORT; auto: the one that this machine is in; local: start one here"
    )
    ray_wait_minutes: Annotated[float, Field(gt=0)] = Field(
        10.0, description="minutes that the search waits for a Ray cluster that has no room for a trial"
    )
    checkpoint_url: str = Field(
        "",
        description="where trials of a Ray cluster keep their checkpoints: a file, s3 or gs URL; empty: on the disk of "
        "the search, through Ray",
    )
    nice: Annotated[int, Field(ge=0, le=19)] = Field(
        0, description="how far trials step back for other programs of this machine, 0 to 19"
    )
    monitor_seconds: Annotated[float, Field(ge=0.1, le=60)] = Field(
        1.0, description="seconds between two rows of the hardware log"
    )
    grid_co2: Annotated[float, Field(ge=0)] | Annotated[str, Field(pattern=_COUNTRY, title="a country's code")] = Field(
        475.0,
        description="CO2 of a kWh of your grid, g; or a country's ISO code such as DEU, with the extra 'carbon'. 475: "
        "the world's mean",
    )
    storage: str = Field(
        "", description="Optuna storage URL; empty: the journal metrics_data/studies.journal of this workspace"
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
