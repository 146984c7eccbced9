"""Search spaces: reads their files and text, samples them, and checks what they return.

In: a file NAME.py with `sample` and `build`, or its stored text. Out: a `SearchSpace`. What a space may import from
mloptimizer is here: `suggest_optimizer`.
"""

from mloptimizer.spaces.space_files import suggest_optimizer as suggest_optimizer
