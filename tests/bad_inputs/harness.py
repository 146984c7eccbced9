"""Damages what a person hands in, runs the command line on it in this process, and looks at what is left.

The generated inputs are the same in every run: nothing is random from run to run, and nothing is remembered.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mloptimizer.cli.main import main

REPEATABLE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


@dataclass(frozen=True)
class Said:
    """What a command gave: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


def run(*words: str, cwd: Path) -> Said:
    """Run the command in this process, with the streams that a terminal gives it; any other exception is a bug."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    code: Any = 0
    logger = logging.getLogger("mloptimizer")
    before = (logger.handlers, logger.propagate, logger.level)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["mloptimizer", *words])
        patch.chdir(cwd)
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            logger.handlers, logger.propagate = before[:2]
            logger.setLevel(before[2])
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return Said(code, *texts)


def assert_well_told(said: Said) -> None:
    """It succeeded without an error, or failed with exactly one line."""
    assert "Traceback" not in said.out + said.err
    errors = [line for line in said.err.splitlines() if line.startswith("Error: ")]
    assert said.code in (0, 1, 2), said
    assert len(errors) == (0 if said.code == 0 else 1), said
    assert len(said.err.splitlines()) == len(errors), said


def snapshot(folder: Path) -> dict[str, str]:
    """Return every file below the folder with the digest of its bytes, every link with its target, and every folder."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place) / name
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"-> {path.readlink()}"
            else:
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


@contextlib.contextmanager
def copy_of(folder: Path) -> Iterator[Path]:
    """Give a copy of the folder, alone in a folder of its own, for one example."""
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(shutil.copytree(folder, Path(temporary) / "place" / "work", symlinks=True))


# --- what is generated

_no_text = st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]
)  # bytes of a name, as Python has them
plain_text = st.text(
    st.one_of(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), _no_text), max_size=40
)
"""What an operating system can hand to a program."""

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 2**63, 1e308, -1e308, 5e-324]),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(st.characters(exclude_categories=()), max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["epoch", "trial", "kind", "space", "[/red]", "x"]), inner, max_size=3),
    ),
    max_leaves=5,
)
deep = st.sampled_from(["[" * 100_000, '{"a":' * 300 + "1" + "}" * 300, "[" * 400 + "]" * 400])


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return the bytes cut off, with flipped bits, or replaced; of JSON, also with other values in it."""
    kinds = ["cut", "flip", "bytes", "empty", "json", "deep", "value", "value", "value", "value"]
    kind = draw(st.sampled_from(kinds))
    if kind == "cut":
        return whole[: draw(st.integers(0, len(whole)))]
    if kind == "flip" and whole:
        changed = bytearray(whole)
        for place in draw(st.lists(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=3)):
            changed[place // 8] ^= 1 << place % 8
        return bytes(changed)
    others: dict[str, st.SearchStrategy[bytes]] = {
        "bytes": st.binary(max_size=100),
        "empty": st.just(b""),
        "deep": deep.map(str.encode),
        "json": json_values.map(lambda value: json.dumps(value).encode()),
    }
    return draw(others.get(kind, with_other_values(whole)))


@st.composite
def with_other_values(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return the JSON, or one of its lines, with one of its values replaced or left out; other bytes as they are."""
    lines = [whole]
    with contextlib.suppress(ValueError):
        lines = whole.splitlines() if whole.count(b"\n{") and b"\n{" in whole[:2000] else [whole]
    number = draw(st.integers(0, len(lines) - 1)) if lines else 0
    try:
        value = json.loads(lines[number])
    except (ValueError, IndexError):
        return whole
    here: Any = value
    while isinstance(here, (dict, list)) and here:
        key = draw(st.sampled_from(sorted(here)) if isinstance(here, dict) else st.integers(0, len(here) - 1))
        if not isinstance(here[key], (dict, list)) or not here[key] or draw(st.booleans()):
            if isinstance(here, dict) and draw(st.integers(0, 4)) == 0:
                del here[key]
            else:
                here[key] = draw(json_values)
            break
        here = here[key]
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n"
