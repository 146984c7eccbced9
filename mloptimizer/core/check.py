"""What the doctors found: of this machine, and of the nodes of a cluster."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `ok` None: a note, neither right nor wrong."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself."""

    host: str
    answers: bool
    leaves: bool = False
    cpus: float = 0.0
    gpus: float = 0.0  # as declared
    gpus_seen: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)  # with Python's
    skew_seconds: float = 0.0  # its clock less ours
    auth_mode: str = ""
    data: tuple[str, ...] = ()
    closed_ports: tuple[int, ...] = ()  # that this machine cannot reach
