"""The clock: a step of the wall clock is noticed, a drift is not one."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from monitor.clock import WallSteps, to_rfc3339
from tests.builders import SettableClock

HOUR_MS = 3_600_000


def test_a_step_is_told_until_it_is_undone() -> None:
    clock = SettableClock(10 * HOUR_MS)
    steps = WallSteps(clock)
    assert steps.step_s() == 0.0
    clock.offset_ms = -HOUR_MS
    assert steps.step_s() == -3_600.0
    assert steps.latest_ms() == 10 * HOUR_MS, "what is fresh must not seem to be of the future"
    clock.offset_ms = 0
    assert steps.step_s() == 0.0


def test_a_step_forward_is_believed_at_once() -> None:
    clock = SettableClock(10 * HOUR_MS)
    steps = WallSteps(clock)
    clock.offset_ms = HOUR_MS
    assert (steps.step_s(), steps.latest_ms()) == (3_600.0, 11 * HOUR_MS)


def test_waits_go_on_as_if_the_clock_had_not_been_set() -> None:
    """Either way."""
    clock = SettableClock(10 * HOUR_MS)
    steps = WallSteps(clock)
    for offset_ms in (HOUR_MS, -HOUR_MS):
        clock.offset_ms = offset_ms
        assert steps.steady_ms() == 10 * HOUR_MS


def test_a_step_that_lasts_is_taken_as_right() -> None:
    clock = SettableClock(10 * HOUR_MS)
    steps = WallSteps(clock, adopt_after_s=600)
    clock.offset_ms = -HOUR_MS
    assert steps.step_s() == -3_600.0
    clock.advance(599)
    assert steps.step_s() == -3_600.0
    clock.advance(1)
    assert steps.step_s() == 0.0
    assert steps.latest_ms() == clock.now_ms()


def test_clocks_that_drift_apart_slowly_are_no_step() -> None:
    clock = SettableClock(0)
    steps = WallSteps(clock)
    for _ in range(100):
        clock.advance(3_600)
        clock.offset_ms += 50_000
        assert steps.step_s() == 0.0


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_every_millisecond_of_every_year_is_written_as_itself(epoch_ms: int) -> None:
    since = datetime.fromisoformat(to_rfc3339(epoch_ms)) - datetime(1970, 1, 1, tzinfo=UTC)
    assert (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000 == epoch_ms
