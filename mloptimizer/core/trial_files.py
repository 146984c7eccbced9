"""The names of the files in a trial's folder, for the driver, the workers and the engines."""

PLAN, EPOCHS, RESULT, ATTEMPTS = "plan.json", "epochs.jsonl", "result.json", "attempts.jsonl"
WEIGHTS = "model.weights.h5"
CHECKPOINTS = "checkpoints"  # folder during training; the worker writes it, the driver removes it
WORKER_LOG = "worker.log"  # output of TensorFlow and the search space
