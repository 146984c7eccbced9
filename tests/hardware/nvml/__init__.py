"""A stand-in for NVIDIA's management library: tests run the real nvidia-ml-py on it."""
