"""Alembic's entry point; `monitor.store.migrate` has configured the context already."""

from alembic import context

with context.begin_transaction():
    context.run_migrations()
