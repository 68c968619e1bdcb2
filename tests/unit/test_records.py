"""What crosses rooms keeps its identity."""

from monitor.clock import ManualClock, to_rfc3339
from monitor.records import Document, mention_id


def test_a_mention_id_depends_on_document_and_entity_alone() -> None:
    assert mention_id("a:1", "AAPL") == mention_id("a:1", "AAPL")
    assert len({mention_id("a:1", "AAPL"), mention_id("a:1", "MSFT"), mention_id("a:2", "AAPL")}) == 3


def test_a_document_key_is_unique_over_sources() -> None:
    one = Document(id="1", source="a", channel="news", published_at_ms=0, title="t", body="b")
    assert one.key == "a:1"
    assert one.text == "t\nb"


def test_times_are_written_in_utc_with_milliseconds_only_where_there_are_any() -> None:
    assert to_rfc3339(0) == "1970-01-01T00:00:00Z"
    assert to_rfc3339(1_500) == "1970-01-01T00:00:01.500Z"


def test_the_manual_clock_moves_when_told() -> None:
    clock = ManualClock(1_000)
    clock.sleep(2)
    assert clock.now_ms() == 3_000
    assert clock.monotonic_s() == 3.0
