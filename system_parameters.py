"""The settings of this mloptimizer workspace; `--set NAME=VALUE` overrides one of them for one command.

This file is read, not run: it holds values and arithmetic on them. Remove a line to use the default.
Written by `mloptimizer init`.
"""

# --- Search

# set of values for one purpose; see `mloptimizer settings --profile NAME`
# Possible: basic, balanced, speed, reproducible, memory
profile = "balanced"

# search spaces to try; names separated by commas, empty: all
# Possible: names, a,b
spaces = ()

# validation metric that ranks the trials; val_loss is minimized
# Possible: val_accuracy, val_top_k_accuracy, val_loss
objective = "val_accuracy"

# seed of the study; auto: drawn once and recorded. Results repeat with one worker only
# Possible: a whole number >= 0 and < 2147483648 or 'auto'
seed = "auto"

# proposes the next model; gp needs the extra 'gp', cmaes the extra 'cmaes'
# Possible: tpe, gp, cmaes, qmc, random
sampler = "tpe"

# tpe: model each family's parameters separately; slower and no better in our measurements
# Possible: true or false
sampler_group = False

# tpe: newest trials to learn from, besides the 50 best; 0: all
# Possible: a whole number >= 0
sampler_history = 200

# stops exploration trials that fall behind the others
# Possible: median, hyperband, asha, percentile, patient, none
pruner = "median"

# trials that must end before median and percentile pruners act
# Possible: a whole number >= 0
pruner_startup_trials = 5

# --- Phases

# models to explore
# Possible: a whole number >= 1
trials = 100

# epochs of an exploration trial
# Possible: a whole number >= 1
exploration_epochs = 8

# epochs without improvement after which an exploration trial stops early
# Possible: a whole number >= 1
exploration_patience = 2

# best models to train further; at most half of the completed trials
# Possible: a whole number >= 1
hall_of_fame_size = 6

# epochs of a hall-of-fame trial
# Possible: a whole number >= 1
hall_of_fame_epochs = 100

# epochs without improvement after which a hall-of-fame trial stops early
# Possible: a whole number >= 1
hall_of_fame_patience = 10

# start from the exploration weights; false: from new ones
# Possible: true or false
warm_start_hall_of_fame = True

# --- Data

# share of the training images kept for validation, stratified by class
# Possible: a number > 0 and < 1
validation_fraction = 0.2

# use at most this many training images; 0: all. Validation images are taken from them
# Possible: a whole number >= 0
train_limit = 0

# where trials read images from; auto: memory if they fit into a quarter of what is free
# Possible: auto, memory, disk
data_cache = "auto"

# keep images on the device and augment them there; auto: on a GPU if they fit into a quarter of its memory
# Possible: auto, on, off
data_on_device = "auto"

# batches prepared ahead of the training; auto: 4
# Possible: a whole number >= 1 or 'auto'
prefetch_batches = "auto"

# --- Augmentation

# how training images are changed; auto: flips and crops for color images of at least 24 pixels, and the
# settings below; search: the study proposes every strength; off: not at all
# Possible: auto, search, off
augmentation = "auto"

# share of images mirrored left to right; auto: 0.5 for color images, see augmentation
# Possible: a number >= 0 and <= 1 or 'auto'
flip_probability = "auto"

# largest shift of an image, as a share of its side; auto: 0.125, see augmentation
# Possible: a number >= 0 and < 0.5 or 'auto'
crop_padding = "auto"

# strength of RandAugment, which applies two operations per image; 0: off
# Possible: a number >= 0 and <= 10
randaugment_magnitude = 0.0

# alpha of MixUp's Beta distribution; 0: off
# Possible: a number >= 0 and <= 1000
mixup_alpha = 0.0

# alpha of CutMix's Beta distribution; 0: off. With MixUp too, each batch gets one of the two
# Possible: a number >= 0 and <= 1000
cutmix_alpha = 0.0

# share of images in which a random rectangle is erased
# Possible: a number >= 0 and <= 1
erasing_probability = 0.0

# --- Batches and memory

# images per GPU and step, before the multiplier; auto: the fastest that fits, measured once per model shape
# Possible: a whole number >= 1 or 'auto'
batch_size = 64

# factor for the batch size; auto: 2 with several GPUs per trial, otherwise 1
# Possible: a whole number >= 1 or 'auto'
batch_size_multiplier = "auto"

# micro-batches per step, for less memory and the same result; auto: 1, or more if memory is short
# Possible: a whole number >= 1 or 'auto'
accumulation_steps = "auto"

# smallest micro-batch per GPU; a model that needs a smaller one fails
# Possible: a whole number >= 1
min_micro_batch = 8

# recompute activations in the backward pass to save memory; auto: if the model is too large otherwise
# Possible: auto, on, off
remat = "auto"

# GPU memory that a trial may use, MB; auto: grows as needed
# Possible: a whole number >= 1 or 'auto'
gpu_memory_limit_mb = "auto"

# % of main memory in use above which trials release spare memory
# Possible: a number > 0 and <= 100
memory_threshold = 80.0

# % of main memory in use above which the newest of several trials is stopped and queued again
# Possible: a number > 0 and <= 100
memory_ceiling = 92.0

# --- Optimization

# learning rate schedule after the warm-up
# Possible: cosine, one_cycle, step, plateau
schedule = "cosine"

# epochs in which the learning rate rises linearly; at most a third of all epochs
# Possible: a number >= 0
warmup_epochs = 3.0

# how the learning rate grows with the global batch size
# Possible: linear, sqrt, none
learning_rate_scaling = "linear"

# gradient clipping, after the sum over replicas; global_norm: all gradients together; norm: each weight
# tensor; value: each element; adaptive: each unit, relative to the norm of its weights
# Possible: global_norm, norm, value, adaptive, off
clipping = "global_norm"

# clipping threshold; auto: 1 for norms, 0.5 for value, 0.01 for adaptive
# Possible: a number > 0 or 'auto'
clip_threshold = "auto"

# momentum of a moving average of the weights, which is validated and kept instead of them; 0: off
# Possible: a number >= 0 and < 1
ema_momentum = 0.0

# steps in a row skipped for a NaN or infinite loss or gradient before the last good weights are restored
# Possible: a whole number >= 1
nan_patience = 20

# times that a trial restores its last good weights, with half the learning rate, before it fails
# Possible: a whole number >= 0
nan_retries = 2

# name the first operation that gives NaN or infinity; for debugging: slow, and without XLA
# Possible: true or false
check_numerics = False

# --- Speed

# number format; auto: mixed_float16 on GPUs with tensor cores, otherwise float32; tf32 needs capability 8.0
# Possible: auto, float32, tf32, mixed_float16, mixed_bfloat16
precision = "auto"

# compile the training step; auto: on GPUs, if enough steps follow to repay it
# Possible: auto, on, off
xla = "auto"

# training steps per call; auto: 8 on GPUs, 1 on a CPU
# Possible: a whole number >= 1 or 'auto'
steps_per_execution = "auto"

# use only operations with repeatable results; slower, and without XLA
# Possible: true or false
deterministic = False

# measure precision, XLA, batch size and pipeline once before a study; auto: on machines with a GPU
# Possible: auto, on, off
autotune = "auto"

# k of the top-k accuracy, lowered to stay below the number of classes
# Possible: a whole number >= 1
top_k = 5

# --- Faults

# epochs between two checkpoints, from which an interrupted trial resumes; 0: no checkpoints
# Possible: a whole number >= 0
checkpoint_epochs = 1

# minutes without a training step after which a trial is killed as hung
# Possible: a number > 0
hang_minutes = 10.0

# extra minutes until the first step, for building and compiling
# Possible: a number > 0
compile_minutes = 30.0

# minutes that a trial may train, over all its attempts; 0: no limit
# Possible: a number >= 0
trial_minutes = 0.0

# free space on the workspace's disk below which the search pauses until there is more, MB
# Possible: a whole number >= 0
min_free_disk_mb = 200

# --- Budgets

# hours after which the search stops; 0: no limit. Running trials continue on resume
# Possible: a number >= 0
max_hours = 0.0

# energy of the search's GPUs and its share of the CPU after which it stops, kWh; 0: no limit
# Possible: a number >= 0
max_kwh = 0.0

# size of records and weights at which the search stops, MB; 0: no limit
# Possible: a number >= 0
max_disk_mb = 0.0

# value of the objective to stop at
# Possible: a number or 'none'
target = "none"

# trials in a row without improvement after which the exploration ends; 0: never
# Possible: a whole number >= 0
stop_when_stagnant = 0

# --- Machine

# trials at a time; auto: as many as the GPUs allow, without GPUs as cores and memory allow
# Possible: a whole number >= 1 or 'auto'
workers = "auto"

# GPUs per trial; auto: one while there are enough trials, otherwise as many as train most per hour
# Possible: a whole number >= 1 or 'auto'
gpus_per_trial = "auto"

# trials that share a GPU, with one GPU per trial; auto: up to 4, as measured utilization and free memory
# allow, and fewer again if that does not pay. Not yet run on a GPU
# Possible: a whole number >= 1 and <= 16 or 'auto'
trials_per_gpu = 1

# logical devices to split the CPU into, to try MirroredStrategy without GPUs
# Possible: a whole number >= 1
cpu_replicas = 1

# how trial processes start; auto: forkserver, or spawn if that fails
# Possible: auto, forkserver, spawn
start_method = "auto"

# where trials run; process: in processes on this machine; ray: on a Ray cluster, needs the extra 'ray';
# thread: one at a time in the search's process, for breakpoints; nothing stops trials that hang
# Possible: process, thread, ray
engine = "process"

# Ray cluster, HOST:PORT; auto: this machine's cluster; local: start one here
# Possible: text
ray_address = "auto"

# minutes to wait for a Ray cluster that has no room for a trial
# Possible: a number > 0
ray_wait_minutes = 10.0

# where Ray trials keep checkpoints: a file, s3 or gs URL; empty: on the disk of the search, through Ray
# Possible: text
checkpoint_url = ""

# nice value of trial processes; the higher, the more they yield to other programs
# Possible: a whole number >= 0 and <= 19
nice = 0

# seconds between two rows of the hardware log
# Possible: a number >= 0.1 and <= 60
monitor_seconds = 1.0

# CO2 of your grid, g per kWh; 475: world average; or a country's ISO code such as DEU, extra 'carbon'
# Possible: a number >= 0 or a country's code
grid_co2 = 475.0

# Optuna storage URL; empty: metrics_data/studies.journal in this workspace
# Possible: text
storage = ""
