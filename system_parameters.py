"""The settings of this mloptimizer workspace; `--set NAME=VALUE` overrides one of them for one command.

This file is read, not run: values and arithmetic on them. Remove a line to take the default.
Written by `mloptimizer init`.
"""

# --- Search

# a set of values for one purpose; see `mloptimizer settings --profile NAME`
# Possible: basic, balanced, speed, reproducible, memory
profile = "balanced"

# search spaces to try; their names with commas, empty: all
# Possible: names, a,b
spaces = ()

# validation metric that ranks the trials; val_loss is minimized
# Possible: val_accuracy, val_top_k_accuracy, val_loss
objective = "val_accuracy"

# seed of the study; auto: drawn once and recorded. Repeatable with one worker
# Possible: a whole number >= 0 and < 2147483648 or 'auto'
seed = "auto"

# proposes the next model; gp needs the extra 'gp', cmaes the extra 'cmaes'
# Possible: tpe, gp, cmaes, qmc, random
sampler = "tpe"

# tpe: model the parameters of each family apart; no better and slower in our measurements
# Possible: true or false
sampler_group = False

# tpe: it learns from the 50 best and so many of the newest trials; 0: from all
# Possible: a whole number >= 0
sampler_history = 200

# ends exploration trials that fall behind the others
# Possible: median, hyperband, asha, percentile, patient, none
pruner = "median"

# trials that must have ended before the median and percentile pruners act
# Possible: a whole number >= 0
pruner_startup_trials = 5

# --- Phases

# models to explore
# Possible: a whole number >= 1
trials = 100

# epochs of an exploration trial
# Possible: a whole number >= 1
exploration_epochs = 8

# epochs without a better value that end an exploration trial
# Possible: a whole number >= 1
exploration_patience = 2

# best models that are trained further; never more than half of the completed trials
# Possible: a whole number >= 1
hall_of_fame_size = 6

# epochs of a hall-of-fame training
# Possible: a whole number >= 1
hall_of_fame_epochs = 100

# epochs without a better value that end such a training
# Possible: a whole number >= 1
hall_of_fame_patience = 10

# start from the exploration weights; off: from new ones
# Possible: true or false
warm_start_hall_of_fame = True

# --- Data

# share of the training images kept for validation, stratified by class
# Possible: a number > 0 and < 1
validation_fraction = 0.2

# use only this many training images; validation included, 0: all
# Possible: a whole number >= 0
train_limit = 0

# where a trial reads its images from; auto: from memory if they fit into a quarter of what is free
# Possible: auto, memory, disk
data_cache = "auto"

# keep the images as bytes on the device, and augment them there; auto: on GPUs if they fit into a quarter of
# the memory
# Possible: auto, on, off
data_on_device = "auto"

# batches that are made ready ahead of the training; auto: 4
# Possible: a whole number >= 1 or 'auto'
prefetch_batches = "auto"

# --- Augmentation

# how training images are changed; auto: flips and crops of colour images from 24 pixels on, and what is set
# below; search: the study proposes every strength; off: not at all
# Possible: auto, search, off
augmentation = "auto"

# share of the images that are mirrored left to right; auto: 0.5 of colour images, see above
# Possible: a number >= 0 and <= 1 or 'auto'
flip_probability = "auto"

# how far images are shifted at most, as a share of their side; auto: 0.125, see above
# Possible: a number >= 0 and < 0.5 or 'auto'
crop_padding = "auto"

# strength of RandAugment's two operations an image; 0: off
# Possible: a number >= 0 and <= 10
randaugment_magnitude = 0.0

# alpha of MixUp's Beta distribution; 0: off
# Possible: a number >= 0 and <= 1000
mixup_alpha = 0.0

# alpha of CutMix's Beta distribution; 0: off. With MixUp too, each batch gets one of the two
# Possible: a number >= 0 and <= 1000
cutmix_alpha = 0.0

# share of the images of which a random rectangle is erased
# Possible: a number >= 0 and <= 1
erasing_probability = 0.0

# --- Batches and memory

# images per GPU and step; before the multiplier. auto: the fastest that fits, measured once per model shape
# Possible: a whole number >= 1 or 'auto'
batch_size = 64

# auto: 2 with several GPUs per trial, otherwise 1
# Possible: a whole number >= 1 or 'auto'
batch_size_multiplier = "auto"

# micro-batches that a step is computed in, with the same result and less memory; auto: 1, and more where the
# memory does not suffice
# Possible: a whole number >= 1 or 'auto'
accumulation_steps = "auto"

# images per GPU and pass below which a model that runs out of memory is given up
# Possible: a whole number >= 1
min_micro_batch = 8

# compute activations again in the backward pass instead of keeping them; auto: where the estimated memory
# does not suffice otherwise
# Possible: auto, on, off
remat = "auto"

# memory of a GPU that a trial may take, MB; auto: it grows as needed
# Possible: a whole number >= 1 or 'auto'
gpu_memory_limit_mb = "auto"

# % of the main memory in use from which trials return what they can spare
# Possible: a number > 0 and <= 100
memory_threshold = 80.0

# % of the main memory in use from which the newest of several trials is stopped and queued again
# Possible: a number > 0 and <= 100
memory_ceiling = 92.0

# --- Optimization

# course of the learning rate after the warm-up
# Possible: cosine, one_cycle, step, plateau
schedule = "cosine"

# epochs in which the learning rate rises linearly, at most a third of the epochs
# Possible: a number >= 0
warmup_epochs = 3.0

# how the learning rate grows with the global batch
# Possible: linear, sqrt, none
learning_rate_scaling = "linear"

# limits the gradients after the sum over the replicas: the norm of all, the norm of each weight's, each
# value, or each unit's norm by that of its weights
# Possible: global_norm, norm, value, adaptive, off
clipping = "global_norm"

# limit of the clipping; auto: 1 for norms, 0.5 for value, 0.01 for adaptive
# Possible: a number > 0 or 'auto'
clip_threshold = "auto"

# share of the old mean in the moving average of the weights, which is validated and kept; 0: off
# Possible: a number >= 0 and < 1
ema_momentum = 0.0

# steps in a row skipped for a loss or gradient that is not finite, before the trial goes back
# Possible: a whole number >= 1
nan_patience = 20

# times that a trial goes back to its last good weights with half the learning rate, before failing
# Possible: a whole number >= 0
nan_retries = 2

# name the operation that first gives NaN or infinity; for debugging: slow, and without XLA
# Possible: true or false
check_numerics = False

# --- Speed

# number format; auto: mixed_float16 on GPUs with tensor cores, otherwise float32; tf32 needs capability 8.0
# Possible: auto, float32, tf32, mixed_float16, mixed_bfloat16
precision = "auto"

# compile the training step; auto: on GPUs where the steps to come pay for it
# Possible: auto, on, off
xla = "auto"

# training steps that run in one call; auto: 8 on GPUs, 1 on a CPU
# Possible: a whole number >= 1 or 'auto'
steps_per_execution = "auto"

# only operations that give the same result every time; slower, and without XLA
# Possible: true or false
deterministic = False

# measure precision, XLA, batch and pipeline once before a study; auto: on machines with a GPU
# Possible: auto, on, off
autotune = "auto"

# k of the top-k accuracy, lowered to stay below the number of classes
# Possible: a whole number >= 1
top_k = 5

# --- Faults

# epochs between two checkpoints, from which a trial that was cut off goes on; 0: none
# Possible: a whole number >= 0
checkpoint_epochs = 1

# minutes without a training step after which a trial counts as hung, and its process is ended
# Possible: a number > 0
hang_minutes = 10.0

# minutes that a trial has in addition until its first step: building and compiling are silent
# Possible: a number > 0
compile_minutes = 30.0

# minutes that a trial may train, all its attempts together; 0: no limit
# Possible: a number >= 0
trial_minutes = 0.0

# free space of the workspace's disk below which the search pauses until there is more, MB
# Possible: a whole number >= 0
min_free_disk_mb = 200

# --- Budgets

# hours after which the search stops; running trials go on when it is continued
# Possible: a number >= 0
max_hours = 0.0

# energy of its GPUs and its share of the CPU's after which the search stops, kWh
# Possible: a number >= 0
max_kwh = 0.0

# space that the study's records and weights may take, MB; the search stops when it is reached
# Possible: a number >= 0
max_disk_mb = 0.0

# value of the objective to stop at
# Possible: a number or 'none'
target = "none"

# trials in a row without a better value that end the exploration
# Possible: a whole number >= 0
stop_when_stagnant = 0

# --- Machine

# trials at a time; auto: as many as GPUs allow, without a GPU as cores and memory allow
# Possible: a whole number >= 1 or 'auto'
workers = "auto"

# auto: one while there are trials enough; otherwise what was measured to train most per hour
# Possible: a whole number >= 1 or 'auto'
gpus_per_trial = "auto"

# trials that share a GPU, with one GPU per trial; auto: up to 4, as measured utilisation and free memory
# allow, and fewer again where that does not pay. Not run on a GPU yet
# Possible: a whole number >= 1 and <= 16 or 'auto'
trials_per_gpu = 1

# split the CPU into so many logical devices under MirroredStrategy; to try it without GPUs
# Possible: a whole number >= 1
cpu_replicas = 1

# how trial processes start; auto: forkserver, spawn where that fails
# Possible: auto, forkserver, spawn
start_method = "auto"

# where trials run: processes of this machine; ray: a Ray cluster, needs the extra 'ray'; thread: one by one
# in the search's own process, for breakpoints: nothing ends a trial that hangs or takes too long
# Possible: process, thread, ray
engine = "process"

# the Ray cluster: HOST:PORT; auto: the one that this machine is in; local: start one here
# Possible: text
ray_address = "auto"

# minutes that the search waits for a Ray cluster that has no room for a trial
# Possible: a number > 0
ray_wait_minutes = 10.0

# where trials of a Ray cluster keep their checkpoints: a file, s3 or gs URL; empty: on the disk of the
# search, through Ray
# Possible: text
checkpoint_url = ""

# how far trials step back for other programs of this machine, 0 to 19
# Possible: a whole number >= 0 and <= 19
nice = 0

# seconds between two rows of the hardware log
# Possible: a number >= 0.1 and <= 60
monitor_seconds = 1.0

# CO2 of a kWh of your grid, g; 475: the world's mean; or a country's ISO code such as DEU, extra 'carbon'
# Possible: a number >= 0 or a country's code
grid_co2 = 475.0

# Optuna storage URL; empty: the journal metrics_data/studies.journal of this workspace
# Possible: text
storage = ""
