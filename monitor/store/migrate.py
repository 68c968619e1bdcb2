"""Bring a database to this version's schema, or refuse one that is ahead of us. Safe when several roles start at once."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from monitor.errors import Fatal
from monitor.store.engine import WRITING, is_postgres, translated
from monitor.store.tables import metadata

VERSION_TABLE = "tapewatch_version"
_LOCK = 0x7461706577  # "tapew": one migration at a time on a PostgreSQL database


def migrate(engine: Engine) -> None:
    """Raises Fatal for a newer or a foreign database."""
    script = scripts()
    with translated("migrating"), engine.connect().execution_options(**WRITING) as connection, connection.begin():
        if is_postgres(connection):
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        found = _version(connection)
        if found == script.get_current_head():
            return
        known = {revision.revision for revision in script.walk_revisions()}
        if found is not None and found not in known:
            raise Fatal(
                f"database: its schema is version {found}, newer than this tapewatch knows "
                f"({script.get_current_head()}); run the newer tapewatch, or restore the backup made before its upgrade"
            )
        if found is None and "mentions" in inspect(connection).get_table_names():
            raise Fatal("database: it has a table `mentions` that is not ours; name another database in [database] url")
        _upgrade(connection, script)


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def _version(connection: Connection) -> str | None:
    if VERSION_TABLE not in inspect(connection).get_table_names():
        return None
    wanted = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - our own name  # nosec B608
    return connection.execute(wanted).scalar()


def _upgrade(connection: Connection, script: ScriptDirectory) -> None:
    environment = EnvironmentContext(Config(), script)
    environment.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        transactional_ddl=False,  # the transaction is ours
        fn=lambda revision, _context: script._upgrade_revs("head", revision),
    )
    environment.run_migrations()
