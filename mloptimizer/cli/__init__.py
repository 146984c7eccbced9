"""The command line: words become one call into `app`; errors become one line and an exit code.

In: arguments. Out: text on the terminal, the live display, exit codes.
"""

from mloptimizer.core.import_path import leave_current_folder

leave_current_folder()  # before anything else is imported
