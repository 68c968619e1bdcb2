"""A PostgreSQL connection that does not wait for ever: what does not answer in time is given up, and the caller tries again.

The server's own statement timeout can't help where the server is not reached: a pooler that hangs, a proxy that lost its
other side, a network that swallows packets and acknowledges them.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

from monitor.clock import SystemClock

T = TypeVar("T")
ANSWER_S = 75.0  # longer than the server's statement timeout, which has the better words


class PatientConnection(psycopg.Connection[Any]):
    """As psycopg's, but every question has an end."""

    answer_s = ANSWER_S

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        return super().wait(self._within(gen), *args, **options)

    def _within(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """psycopg resumes the generator every now and then, even when nothing has come."""
        clock = SystemClock()
        give_up_s = clock.monotonic_s() + self.answer_s
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if clock.monotonic_s() > give_up_s:
                    gen.close()
                    self.pgconn.finish()  # closed, so that nobody takes it for a connection that works
                    raise psycopg.OperationalError(
                        f"no answer within {self.answer_s:.0f} s; the connection is given up"
                    )
                wanted = gen.send(ready)
        except StopIteration as done:
            answer: T = done.value
            return answer
