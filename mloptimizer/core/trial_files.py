"""The names of the files in a trial's folder, which the driver, the workers and the engines share."""

PLAN, EPOCHS, RESULT, ATTEMPTS = "plan.json", "epochs.jsonl", "result.json", "attempts.jsonl"
WEIGHTS = "model.weights.h5"
CHECKPOINTS = "checkpoints"  # folder of a training that is under way; the worker writes it, the driver removes it
WORKER_LOG = "worker.log"  # what TensorFlow and the search space print
