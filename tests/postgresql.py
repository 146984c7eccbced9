"""Starts a real PostgreSQL server that can be stopped and started again, and a proxy that cuts off its answers."""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
import pytest

OWNER = "owner"
# Ends the server with the signal that a line of input names, or at once when the tests die, which closes the input.
_GUARD = '"$@" & read signal; kill -"${signal:-QUIT}" $!; wait $!'
_STOPS = {"fast": "INT", "immediate": "QUIT"}


class Server:
    """A server in its own folder, on 127.0.0.1 only, that asks every user for a password."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._user = _find_user()
        self._password = secrets.token_hex(12)
        self._databases = 0
        self._process: subprocess.Popen[str] | None = None
        self.port = _find_free_port()
        self._initialise()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Return when the server takes connections."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        command = ["sh", "-c", _GUARD, "sh", self._programs / "postgres", "-D", self._data, *options.split()]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, cwd=self._folder, user=self._user
            )
        while not self._is_ready():
            if self._process.poll() is not None:
                raise RuntimeError((self._folder / "server.log").read_text())
            time.sleep(0.02)

    def stop(self, mode: str) -> None:
        """Stop the server: 'fast' ends the connections in order, 'immediate' is as good as a crash."""
        if self._process is not None:
            self._process.communicate(_STOPS[mode] + "\n")
            self._process = None

    def create_database(self, password: str = "secret") -> str:
        """Return the URL of a new database that belongs to a new user of the same name."""
        self._databases += 1
        name = f"study_{self._databases}"
        with self._connect() as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
            connection.execute(f"CREATE DATABASE {name} OWNER {name}")
        return f"postgresql://{name}:{quote(password, safe='')}@127.0.0.1:{self.port}/{name}"

    def end_connections(self, url: str) -> None:
        """End what is connected to the URL's database, as an administrator does."""
        database = url.rpartition("/")[2]
        with self._connect() as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _initialise(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self._password)
        if self._user is not None:
            for path in (self._folder, password_file):
                shutil.chown(path, self._user)
        options = ["-U", OWNER, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run(
            [self._programs / "initdb", "-D", self._data, "--pwfile", password_file, *options],
            cwd=self._folder,
            user=self._user,
            check=True,
            capture_output=True,
        )
        password_file.unlink()

    def _is_ready(self) -> bool:
        try:  # the file that pg_ctl, too, waits for
            return (self._data / "postmaster.pid").read_text().split()[-1] == "ready"
        except (FileNotFoundError, IndexError):
            return False

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=OWNER, password=self._password, dbname="postgres", autocommit=True
        )


def start_server() -> Iterator[Server]:
    """Yield a running server; without PostgreSQL the tests are skipped, but fail where the variable CI is set."""
    programs = _find_programs()
    if programs is None:
        missing = "no PostgreSQL server was found. Install it: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with Server(programs) as server:
        yield server


class AnswerCutter:
    """A proxy in front of the server that, when armed, hands on the next COMMIT and cuts off the answer to it."""

    def __init__(self, port: int) -> None:
        self.armed = False
        self.cuts = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # Either side may be gone at any time, which ends the other's connection too.
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, contextlib.suppress(OSError):
            back = threading.Thread(target=self._hand_on, args=(server, client), daemon=True)
            back.start()
            while asked := client.recv(65536):
                if self.armed and b"COMMIT" in asked:
                    self.armed = False
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)
                    server.sendall(asked)
                    break
                server.sendall(asked)
            server.shutdown(socket.SHUT_WR)  # the server ends the session when it has answered
            back.join()

    @staticmethod
    def _hand_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := source.recv(65536):
                with contextlib.suppress(BrokenPipeError):  # cut off
                    target.sendall(answer)


def _find_programs() -> Path | None:
    candidates = []
    if pg_config := shutil.which("pg_config"):
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True)
        candidates.append(Path(done.stdout.strip()))
    if postgres := shutil.which("postgres"):
        candidates.append(Path(postgres).resolve().parent)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in candidates if all((folder / n).is_file() for n in ("initdb", "postgres"))), None)


def _find_user() -> str | None:
    """Return the user that the server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _find_free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port
