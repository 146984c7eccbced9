"""What the machine is and does: reads it, logs it, and explains it.

In: NVML, RAPL and the operating system. Out: rows of the hardware log, and what they say about a trial.
"""
