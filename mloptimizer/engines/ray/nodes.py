"""Remembers how trials ended on each node, and which nodes get no more trials."""

from mloptimizer.core.nouns import FailureKind

LIMIT = 3  # failures in a row after which a node is left out
# These may be the machine's fault.
_SUSPECT = [FailureKind(kind) for kind in ("lost_worker", "crash", "hung", "data_error", "disk_full")]


class NodeRecords:
    """The nodes by their Ray ids."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, list[str]] = {}
        self._sound: set[str] = set()  # on which an attempt ended well
        self.left_out: set[str] = set()

    def note(self, node: str, kind: FailureKind | None) -> str:
        """Take how an attempt on the node ended, None: well; return why the node is left out from now on, or "".

        A node is left out only if trials end well on another one: a model that fails everywhere is not its fault.
        """
        if kind is None:
            self._in_a_row.pop(node, None)
            self._sound.add(node)
            return ""
        if kind not in _SUSPECT or node in self.left_out:
            return ""
        kinds = self._in_a_row.setdefault(node, [])
        kinds.append(str(kind))
        if len(kinds) < LIMIT or not self._sound - self.left_out - {node}:
            return ""
        self.left_out.add(node)
        return f"{len(kinds)} attempts in a row failed there ({', '.join(kinds)}), and others end well elsewhere"
