"""How a role lives: until SIGTERM, and from one configuration to the next on SIGHUP.

A new configuration is read and checked while the old one works on. One fault, and nothing changes but the log. If it is
good, the role ends what it does in order, as for SIGTERM, and begins anew with it in the same process; should it fail to
begin after all, it goes back to the old one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from monitor.clock import Clock
from monitor.errors import Fatal
from monitor.settings import Settings
from monitor.telemetry import Notifier

log = structlog.get_logger()
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Orders:
    """What the process was asked for: to end, to read its configuration again. Set by signal handlers."""

    stop: threading.Event = field(default_factory=threading.Event)
    reload: threading.Event = field(default_factory=threading.Event)


def live(
    settings: Settings,
    *,
    work: Callable[[Settings, threading.Event], None],
    read: Callable[[], Settings],
    orders: Orders,
    notifier: Notifier,
    clock: Clock,
) -> None:
    """`work` until told to stop, once for each configuration. `read` raises Fatal for one that can't be used."""
    before: Settings | None = None
    while not orders.stop.is_set():
        halt, found = threading.Event(), list[Settings]()
        watcher = threading.Thread(
            target=_watch, args=(orders, halt, found, read, notifier, clock), name="orders", daemon=True
        )
        watcher.start()
        try:
            work(settings, halt)
        except Fatal as err:
            if before is None:
                raise
            log.error("reload.failed", faults=list(err.faults), now="the old configuration again")
            settings, before = before, None
            continue
        finally:
            halt.set()
            watcher.join()
        if not found:
            return  # ended by itself or was told to
        settings, before = found[0], settings


def checked(read: Callable[[], Settings]) -> Settings | None:
    """A configuration that can be used, or None with every fault in the log."""
    try:
        return read()
    except Fatal as err:
        log.error("reload.refused", faults=list(err.faults), now="the old configuration stays")
        return None


def _watch(
    orders: Orders,
    halt: threading.Event,
    found: list[Settings],
    read: Callable[[], Settings],
    notifier: Notifier,
    clock: Clock,
) -> None:
    """End `work` when told to stop, or when there is another configuration for it."""
    while not halt.wait(_LOOK_S):
        if orders.stop.is_set():
            notifier.stopping()
            halt.set()
        elif orders.reload.is_set():
            orders.reload.clear()
            settings = checked(read)
            if settings is not None:
                log.info("reload.begun")
                notifier.reloading(clock.monotonic_s())
                found.append(settings)
                halt.set()
