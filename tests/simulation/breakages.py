"""Deliberate breakages, one promise each: the simulation must find them, or its silence would mean nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monitor.app import CoreMaker
from monitor.errors import Retryable
from monitor.loops.attempts import AttemptGuard
from monitor.loops.core import PartitionCore
from monitor.loops.deliver import DeliverLoop
from monitor.loops.offsets import OffsetTracker
from monitor.loops.score import ScoreLoop
from monitor.loops.watch import WatchLoop
from monitor.records import Place, ScoredMention
from monitor.store import Store
from monitor.store import tables as t
from monitor.store.watching import upsert
from tests.simulation.broker import SimSource
from tests.simulation.roles import Build


class OffsetsBeforeResults(ScoreLoop):
    """Commits what was read before the broker has acknowledged what came of it."""

    def _commit(self) -> None:
        positions = self._offsets.committable()
        if positions:
            self._source.commit(positions)
            self._offsets.committed(positions)
            self._sink.flush()


class _HighestOffset(OffsetTracker):
    def committable(self) -> dict[tuple[str, int], int]:
        return {p: at for p, at in self._next.items() if at > self._committed.get(p, -1)}


class OvertakesWhatIsInFlight(ScoreLoop):
    """Commits behind the newest message, whatever still waits for the model."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._offsets = _HighestOffset()


class ForgetsWhatWasNotAcknowledged(ScoreLoop):
    """Drops its work when the broker fails, but does not read it again."""

    def _abandon(self) -> None:
        self._running.clear()
        self._waiting, self._halves = [], []
        for partition in self._source.assignment():
            self._offsets.forget(partition)


class _NoFence:
    """A transaction that writes the offset without comparing it."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, what: str) -> Any:
        return getattr(self._real, what)

    def advance_offset(
        self, topic: str, partition: int, *, expected: int | None, following: int, **values: Any
    ) -> None:
        connection = self._real._connection
        row = {"topic": topic, "partition": partition, "next": following, **values}
        changing = ("next", "watermark_ms", "state")
        connection.execute(upsert(connection, t.partition_states, ("topic", "partition"), changing), row)


class _Piecemeal:
    """Every statement is written for good at once, as without a transaction."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, what: str) -> Any:
        call = getattr(self._real, what)

        def now(*args: Any, **kwargs: Any) -> Any:
            answer = call(*args, **kwargs)
            self._real._connection.exec_driver_sql("COMMIT")
            self._real._connection.exec_driver_sql("BEGIN IMMEDIATE")
            return answer

        return now


class KeepsItsCore(WatchLoop):
    """Goes on with what it had in mind, although the database did not take it."""

    def _attempt(self, partition: Any, batch: Any) -> Any:
        try:
            self._fold(partition, batch) if partition[0] == self._topic else self._keep_letters(partition, batch)
        except Retryable as err:
            return err
        return None


class StartsAfresh(CoreMaker):
    """Restores what decays, but not the stories of the open windows."""

    def restore(
        self,
        *,
        state: bytes,
        watermark_ms: int | None,
        entity_states: Mapping[str, bytes],
        recent: Iterable[ScoredMention],
    ) -> PartitionCore:
        return super().restore(state=state, watermark_ms=watermark_ms, entity_states=entity_states, recent=())


class ReturnsBeforeTheLossIsTold(SimSource):
    """A source that hands out messages of a partition which went and came back before it says that it went."""

    def _start_assigned(self) -> None:
        lost, self._lost = self._lost, []
        super()._start_assigned()
        self._lost = lost


class MarksBeforeItSends(DeliverLoop):
    """Closes the row, then sends: a crash in between is silence."""

    def _try(self, receiver: Any, delivery: Any) -> Any:
        self._store.mark_delivered(delivery.id, owner=self._owner, now_ms=self._clock.now_ms())
        return super()._try(receiver, delivery)


class NewIdForEachTry(DeliverLoop):
    """A receiver that drops repeats by their id would see two messages."""

    def _try(self, receiver: Any, delivery: Any) -> Any:
        class _Renamed:
            name = receiver.name

            def send(self, message_id: str, body: bytes, *, now_s: int) -> Any:
                return receiver.send(f"{message_id}-{delivery.attempts}", body, now_s=now_s)

        return super()._try(_Renamed(), delivery)  # type: ignore[arg-type]


class _LeasesByTheCaller:
    """Writes and judges leases by the wall clock of whoever claims."""

    def __init__(self, real: Store) -> None:
        self._real = real

    def __getattr__(self, what: str) -> Any:
        return getattr(self._real, what)

    def claim_deliveries(self, receiver: str, *, now_ms: int, **asked: Any) -> Any:
        own = Store(self._real._engine, clock_ms=lambda _connection: now_ms)
        return own.claim_deliveries(receiver, now_ms=now_ms, **asked)


class NeverCounts(AttemptGuard):
    """Knows no suspect: what kills the process kills the next one as well."""

    def suspects(self, place: Place) -> bool:
        return False


BREAKAGES: dict[str, Build] = {
    "score commits offsets before results": Build(score=OffsetsBeforeResults),
    "score overtakes what is in flight": Build(score=OvertakesWhatIsInFlight),
    "score forgets what was not acknowledged": Build(score=ForgetsWhatWasNotAcknowledged),
    "a partition returns before its loss is told": Build(source=ReturnsBeforeTheLossIsTold),
    "score does not count attempts": Build(attempts=NeverCounts),
    "watch is not fenced": Build(transaction=_NoFence),
    "watch writes piecemeal": Build(transaction=_Piecemeal),
    "watch keeps its core after a failure": Build(watch=KeepsItsCore),
    "watch starts its windows afresh": Build(cores=StartsAfresh),
    "deliver marks before it sends": Build(deliver=MarksBeforeItSends),
    "deliver gives each try a new id": Build(deliver=NewIdForEachTry),
    "deliver leases by the claimant's clock": Build(outbox=_LeasesByTheCaller),
}
