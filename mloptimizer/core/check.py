"""The findings of `doctor` and `cluster doctor`."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """One finding; `ok` is None for a note that is neither right nor wrong."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


@dataclass(frozen=True)
class NodeFacts:
    """The facts that a node of a cluster reports about itself."""

    host: str
    answers: bool
    leaves: bool = False
    cpus: float = 0.0
    gpus: float = 0.0  # as declared
    gpus_seen: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)  # by package; Python's too
    skew_seconds: float = 0.0  # its clock minus ours
    auth_mode: str = ""
    data: tuple[str, ...] = ()
    closed_ports: tuple[int, ...] = ()  # ports that this machine cannot reach
