"""Connections: a URL becomes an engine, and a driver's exceptions become ours.

SQLite runs with `synchronous=FULL`. In WAL mode `NORMAL` would keep the file consistent but may lose the newest commits
in a power cut; a webhook sent from a lost commit can't be called back, and the replayed stream may then raise a second,
different alert. One fsync a batch is the price of "never twice". PostgreSQL waits for its log by default as well.
Row contents never reach an error text: parameters are hidden, and messages that may quote a value are cut to their code.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, text

from monitor.errors import Fatal, Fenced, Retryable, TapewatchError
from monitor.store.patience import PatientConnection

SQLITE_BUSY_MS = 10_000
_POSTGRES_MS = text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)")
_SQLITE_MS = text("SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)")
WRITING = {"tapewatch_writes": True}
_MISSING_SCHEMA = ("no such table", "no such column", "UndefinedTable", "UndefinedColumn")
_OPERATOR_MUST_ACT = (
    "password authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
)
_SQLITE_UNUSABLE = ("unable to open database file", "file is not a database", "readonly database", "malformed")
# A stopped process must not hold locks for ever, and a half-open connection must be noticed.
_POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=60s -c lock_timeout=10s -c statement_timeout=60s"


def engine_for(url: str) -> Engine:
    """An engine that has not connected yet. Raises Fatal when the URL can't be used."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, hide_parameters=True, pool_timeout=30)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = create_engine(
        parsed,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_recycle=1_800,
        pool_timeout=30,
        connect_args={
            "connect_timeout": 10,
            "tcp_user_timeout": 30_000,
            "application_name": "tapewatch",
            "options": _POSTGRES_OPTIONS,
        },
    )
    event.listen(engine, "do_connect", _connect_patiently)
    return engine


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the driver raises while `doing` into Retryable, Fenced or Fatal."""
    try:
        yield
    except exc.IntegrityError as err:
        # The driver's text quotes the row, so it is not chained.
        raise Fenced(
            f"database: {doing}: another process wrote the same rows ({_code(err)}); re-read offsets"
        ) from None
    except exc.DBAPIError as err:
        raise _fate(err, doing) from err
    except exc.TimeoutError as err:
        raise Retryable(
            f"database: {doing}: no free connection within 30 s; fewer roles per process or try again"
        ) from err


def is_postgres(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def database_ms(connection: Connection) -> int:
    """The database's own clock, in epoch milliseconds: the one clock that all who share the database agree on.

    Not the transaction's beginning, which may lie far back, but this very moment. SQLite's is that of the machine that all
    its processes run on, told in days since noon of 4714 BC.
    """
    return int(connection.execute(_POSTGRES_MS if is_postgres(connection) else _SQLITE_MS).scalar_one())


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        # The text may hold a password, so neither it nor the parser's message is repeated.
        raise Fatal("database.url: not a URL; write sqlite:///folder/file.db or postgresql://user@host/name") from None
    backend = parsed.drivername
    if backend in {"postgresql", "postgres", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    if backend not in {"sqlite", "sqlite+pysqlite"}:
        raise Fatal(f"database.url: {backend!r} is not supported; use sqlite:/// or postgresql://")
    if parsed.database in (None, "", ":memory:"):
        raise Fatal("database.url: name a file, as in sqlite:///tapewatch.db; the roles share it")
    folder = Path(parsed.database).parent
    if not folder.is_dir():
        raise Fatal(f"database.url: folder {folder} does not exist; create it or name another")
    return parsed


def _connect_patiently(_dialect: Any, _record: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
    return PatientConnection.connect(*arguments, **options)


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    for pragma in (
        f"busy_timeout={SQLITE_BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once: a transaction that reads first and writes later fails without waiting."""
    writes = connection.get_execution_options().get("tapewatch_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _fate(err: exc.DBAPIError, doing: str) -> TapewatchError:
    code, line = _code(err), _first_line(err)
    if any(sign in f"{code} {line}" for sign in _MISSING_SCHEMA):
        return Fatal(
            f"database: {doing}: the schema is not this version's ({code}); run `tapewatch run` once to migrate"
        )
    if isinstance(err.orig, sqlite3.Error):
        if any(sign in line for sign in _SQLITE_UNUSABLE):
            return Fatal(f"database: {doing}: {line}; check the path, its rights and that it is a tapewatch database")
        if isinstance(err, exc.OperationalError):
            return Retryable(f"database: {doing}: {line}")
    elif isinstance(err, exc.OperationalError | exc.InterfaceError) or err.connection_invalidated:
        if "connection" in line and any(sign in line for sign in _OPERATOR_MUST_ACT):
            return Fatal(f"database: {doing}: {line}")
        return Retryable(f"database: {doing}: {line or code}")
    return Fatal(f"database: {doing}: refused with {code}; this is a fault in tapewatch, please report it")


def _code(err: exc.DBAPIError) -> str:
    state = getattr(err.orig, "sqlstate", None) or getattr(err.orig, "sqlite_errorname", None)
    name = type(err.orig).__name__
    return f"{name} {state}" if state else name


def _first_line(err: exc.DBAPIError) -> str:
    text = str(err.orig).strip()
    return text.splitlines()[0][:300] if text else ""
