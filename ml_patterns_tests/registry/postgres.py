"""A real PostgreSQL for tests: its own server, in its own folder, on a socket only.

Belongs here: starting and stopping it. Does not: what is tested on it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_UNPRIVILEGED = "nobody"


@contextmanager
def postgres_server() -> Iterator[str]:
    """SQLAlchemy URL of an empty server's first database; `{}` in it takes a database's name."""
    missing = [name for name in ("initdb", "pg_ctl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"PostgreSQL is not installed ({', '.join(missing)} not on PATH)")
    # The server refuses to run as root.
    user = _UNPRIVILEGED if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if user:
        shutil.chown(folder, user)
    data, sockets = folder / "data", folder
    options = f"-c listen_addresses='' -c fsync=off -k {sockets}"

    def call(*command: object) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    try:
        call("initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")
        call("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://tester@/{{}}?host={sockets}"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
