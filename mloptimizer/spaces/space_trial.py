"""The trial that a search space's `sample` gets: Optuna's suggest methods, also under their older names."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mloptimizer.spaces.space_files import Suggest


class Trial:
    """Passes each call on."""

    def __init__(self, inner: "Suggest") -> None:
        self.params: dict[str, Any] = {}  # suggested so far
        self._inner = inner

    def suggest_int(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        """Return an integer from low to high, both included."""
        return int(self._keep(name, self._inner.suggest_int(name, low, high, step=step, log=log)))

    def suggest_float(self, name: str, low: float, high: float, step: float | None = None, log: bool = False) -> float:
        """Return a number from low to high: uniform, log-uniform, or one of low, low + step, …"""
        return float(self._keep(name, self._inner.suggest_float(name, low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Iterable[Any]) -> Any:
        """Return one of the choices."""
        # The order of a set differs between processes.
        ordered = sorted(choices, key=repr) if isinstance(choices, (set, frozenset)) else tuple(choices)
        return self._keep(name, self._inner.suggest_categorical(name, ordered))

    # Optuna's older names

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)

    def _keep(self, name: str, answer: Any) -> Any:
        self.params[name] = answer
        return answer

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"trial has no '{name}' here. Possible: suggest_int, suggest_float, suggest_categorical, and params, "
            "the values suggested so far"
        )
