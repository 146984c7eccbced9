"""The settings of this mloptimizer workspace; `--set NAME=VALUE` overrides one of them for one command.

Remove a line to take the default. Written by `mloptimizer init`.
"""

# search spaces to choose from, separated by commas; empty: all
# Possible: names, a,b
spaces = ()

# figure on the validation split that ranks the trials; val_loss is minimised
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

# ends exploration trials that fall behind the others
# Possible: median, hyperband, asha, percentile, patient, none
pruner = "median"

# trials that must have ended before the median and percentile pruners act
# Possible: a whole number >= 0
pruner_startup_trials = 5

# models to explore
# Possible: a whole number >= 1
trials = 100

# epochs of an exploration trial
# Possible: a whole number >= 1
exploration_epochs = 8

# epochs without a better value that end an exploration trial
# Possible: a whole number >= 1
exploration_patience = 2

# best models trained on for long; never more than half of the completed trials
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

# share of the training images kept for validation, stratified by class
# Possible: a number > 0 and < 1
validation_fraction = 0.2

# use only so many images of the training set, validation included; 0: all
# Possible: a whole number >= 0
train_limit = 0

# images per GPU and step, before the multiplier
# Possible: a whole number >= 1
batch_size = 64

# auto: 2 with several GPUs per trial, otherwise 1
# Possible: a whole number >= 1 or 'auto'
batch_size_multiplier = "auto"

# epochs in which the learning rate rises linearly, at most a third of the epochs
# Possible: a number >= 0
warmup_epochs = 3.0

# largest global norm of the gradients, after the sum over the replicas; 0: no clipping
# Possible: a number >= 0
global_clipnorm = 1.0

# auto: mixed_float16 on GPUs with tensor cores, otherwise float32
# Possible: auto, float32, mixed_float16, mixed_bfloat16
precision = "auto"

# compile the training step; auto: on GPUs where the steps to come pay for it
# Possible: auto, on, off
xla = "auto"

# k of the top-k accuracy, lowered to stay below the number of classes
# Possible: a whole number >= 1
top_k = 5

# trials at a time; auto: as many as GPUs allow, without a GPU as cores and memory allow
# Possible: a whole number >= 1 or 'auto'
workers = "auto"

# auto: one while there are more trials than GPUs, all of them when there are fewer
# Possible: a whole number >= 1 or 'auto'
gpus_per_trial = "auto"

# split the CPU into so many logical devices under MirroredStrategy; to try it without GPUs
# Possible: a whole number >= 1
cpu_replicas = 1

# how trial processes start; auto: forkserver, spawn where that fails
# Possible: auto, forkserver, spawn
start_method = "auto"

# seconds between two rows of the hardware log
# Possible: a number >= 0.1 and <= 60
monitor_seconds = 1.0

# Optuna storage URL; empty: the journal metrics_data/studies.journal of this workspace
# Possible: text
storage = ""
