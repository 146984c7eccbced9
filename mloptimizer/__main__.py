"""Lets `python -m mloptimizer` be the command."""

from mloptimizer.cli.main import main

if __name__ == "__main__":
    main()
