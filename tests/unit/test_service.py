"""From one configuration to the next: checked first, taken over in order, and back again when it will not do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from monitor.clock import ManualClock
from monitor.errors import Fatal
from monitor.service import Orders, live
from monitor.settings import Settings, load_settings
from monitor.telemetry import Notifier, NotifyListener

GOOD = '[watchlist]\npath = "w.csv"\n[rules]\npath = "r.toml"\n[deliver]\npoll_ms = {}\n'


class Role:
    """Works until it is halted; `script` says what happens in each of its lives."""

    def __init__(self, folder: Path, script: list[Callable[[Role], None]]) -> None:
        self.file = folder / "tapewatch.toml"
        self.orders, self.script = Orders(), script
        self.lives: list[int] = []
        self.manager = NotifyListener(folder / "notify")
        self.write(1)

    def write(self, poll_ms: object) -> None:
        self.file.write_text(GOOD.format(poll_ms))

    def hup(self) -> None:
        self.orders.reload.set()

    def run(self) -> None:
        live(
            load_settings(self.file, {}),
            work=self.work,
            read=lambda: load_settings(self.file, {}),
            orders=self.orders,
            notifier=Notifier.of(self.manager.environ(60), pid=1),
            clock=ManualClock(),
        )

    def work(self, settings: Settings, halt: threading.Event) -> None:
        self.lives.append(settings.deliver.poll_ms)
        self.script.pop(0)(self)
        assert halt.wait(20), "nobody ended us"


def stop(role: Role) -> None:
    role.orders.stop.set()


def reload_with(poll_ms: object) -> Callable[[Role], None]:
    def act(role: Role) -> None:
        role.write(poll_ms)
        role.hup()

    return act


def test_a_new_configuration_is_taken_over_in_order(tmp_path: Path) -> None:
    role = Role(tmp_path, [reload_with(2), reload_with(3), stop])
    role.run()
    assert role.lives == [1, 2, 3]
    assert {"RELOADING", "STOPPING"} <= role.manager.received()
    role.manager.close()


def test_a_bad_configuration_changes_nothing_but_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def bad_then_stop(role: Role) -> None:
        reload_with('"soon"')(role)
        while role.orders.reload.is_set():
            threading.Event().wait(0.01)
        stop(role)

    role = Role(tmp_path, [bad_then_stop])
    role.run()
    assert role.lives == [1], "the same life went on"
    assert "RELOADING" not in role.manager.received()
    told = capsys.readouterr().out
    assert "reload.refused" in told
    assert "deliver.poll_ms" in told
    role.manager.close()


def test_a_configuration_that_does_not_begin_after_all_gives_way_to_the_old_one(tmp_path: Path) -> None:
    def broken(_role: Role) -> None:
        raise Fatal("kafka: no topic news")

    role = Role(tmp_path, [reload_with(2), broken, stop])
    role.run()
    assert role.lives == [1, 2, 1]
    role.manager.close()


def test_a_configuration_that_is_wrong_from_the_start_ends_the_role(tmp_path: Path) -> None:
    def broken(_role: Role) -> None:
        raise Fatal("kafka: no topic news")

    role = Role(tmp_path, [broken])
    with pytest.raises(Fatal, match="no topic news"):
        role.run()
    role.manager.close()
