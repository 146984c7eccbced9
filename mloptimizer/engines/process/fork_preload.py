"""Makes the process that imports it end with the driver: the first thing that a fork server imports.

Without it, a fork server whose driver is killed would keep importing TensorFlow for seconds.
"""

import os

from mloptimizer.engines.process.lifeline import DRIVER, end_with_parent

if _driver := os.environ.pop(DRIVER, ""):
    end_with_parent(int(_driver))
