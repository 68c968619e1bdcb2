"""A PostgreSQL server of the test's own: from Debian's binaries, on loopback, in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from monitor.broker import free_port


class PostgresServer:
    """Made on construction; `start`, `kill` (SIGQUIT: as a crash) and `stop` as often as the test likes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._bin = _binaries()
        self._user = "postgres" if os.geteuid() == 0 else None
        self._give(folder)
        self._run("initdb", "-D", str(folder / "data"), "-U", "tapewatch", "-A", "trust", "--no-sync")

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """`port` of a proxy instead of the server's own."""
        return f"postgresql://tapewatch@127.0.0.1:{port or self.port}/{database}"

    def create(self, database: str) -> str:
        """A fresh database; returns its URL."""
        self._ask("createdb", database)
        return self.url(database)

    def create_on(self, disk: Path, database: str) -> str:
        """A fresh database all of whose tables lie in this folder; returns its URL."""
        self._give(disk)
        self._ask("psql", "-c", f"CREATE TABLESPACE {database} LOCATION '{disk}'", "postgres")
        self._ask("createdb", "-D", database, database)
        return self.url(database)

    def drop_from(self, database: str) -> None:
        """Undo `create_on`, however far it got; the folder is empty then."""
        self._ask("dropdb", "--force", "--if-exists", database)
        self._ask("psql", "-c", f"DROP TABLESPACE IF EXISTS {database}", "postgres")

    def start(self) -> PostgresServer:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o", options, "start"
        )
        return self

    def kill(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")

    def _give(self, folder: Path) -> None:
        if self._user:
            record = pwd.getpwnam(self._user)
            os.chown(folder, record.pw_uid, record.pw_gid)

    def _ask(self, program: str, *arguments: str) -> None:
        self._run(program, "-h", "127.0.0.1", "-p", str(self.port), "-U", "tapewatch", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        done = subprocess.run(command, user=self._user, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program}: {done.stderr or done.stdout}"


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    assert program, "PostgreSQL's server is missing: apt-get install postgresql"
    return Path(program).parent
