"""The clock: a step of the wall clock is noticed, a drift is not one."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from monitor.clock import ManualClock, WallSteps, to_rfc3339

HOUR_MS = 3_600_000


class Settable(ManualClock):
    """Its wall time can be set; its intervals can't."""

    offset_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.offset_ms


def test_a_step_is_told_until_it_is_undone() -> None:
    clock = Settable(10 * HOUR_MS)
    steps = WallSteps(clock)
    assert steps.step_s() == 0.0
    clock.offset_ms = -HOUR_MS
    assert steps.step_s() == -3_600.0
    assert steps.latest_ms() == 10 * HOUR_MS, "what is fresh must not seem to be of the future"
    clock.offset_ms = 0
    assert steps.step_s() == 0.0


def test_a_step_forward_is_believed_at_once() -> None:
    clock = Settable(10 * HOUR_MS)
    steps = WallSteps(clock)
    clock.offset_ms = HOUR_MS
    assert (steps.step_s(), steps.latest_ms()) == (3_600.0, 11 * HOUR_MS)


def test_a_step_that_lasts_is_taken_as_right() -> None:
    clock = Settable(10 * HOUR_MS)
    steps = WallSteps(clock, adopt_after_s=600)
    clock.offset_ms = -HOUR_MS
    assert steps.step_s() == -3_600.0
    clock.advance(599)
    assert steps.step_s() == -3_600.0
    clock.advance(1)
    assert steps.step_s() == 0.0
    assert steps.latest_ms() == clock.now_ms()


def test_clocks_that_drift_apart_slowly_are_no_step() -> None:
    clock = Settable(0)
    steps = WallSteps(clock)
    for _ in range(100):
        clock.advance(3_600)
        clock.offset_ms += 50_000
        assert steps.step_s() == 0.0


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_every_millisecond_of_every_year_is_written_as_itself(epoch_ms: int) -> None:
    since = datetime.fromisoformat(to_rfc3339(epoch_ms)) - datetime(1970, 1, 1, tzinfo=UTC)
    assert (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000 == epoch_ms
