"""Which topic an offset belongs to: a topic that was deleted and made anew has the same name and other messages.

The port that remembers it, and why a partition is held. Pure; the store implements the port.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class HoldReason(StrEnum):
    """Why a partition of ours is not read."""

    TOPIC_RECREATED = "topic_recreated"
    MESSAGES_EXPIRED = "messages_expired"
    BEYOND_THE_END = "beyond_the_end"
    IDENTITY_UNKNOWN = "identity_unknown"  # the database does not answer: nothing is wrong yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """`detail` is one line for the operator: what was found, and what to do."""

    reason: HoldReason
    detail: str


class Anchor(Protocol):
    """The topic that a group read in a partition; `accepted_next` is where an operator said to go on, once."""

    @property
    def topic_id(self) -> str: ...
    @property
    def accepted_next(self) -> int | None: ...
    @property
    def refused_reason(self) -> str | None: ...


class Anchors(Protocol):
    """What is remembered of each partition of a group. All of it may raise Retryable."""

    def anchor(self, group: str, topic: str, partition: int) -> Anchor | None: ...
    def anchored_since_ms(self, group: str, topic: str) -> int | None: ...
    def drop_anchor(self, group: str, topic: str, partition: int, topic_id: str, *, now_ms: int) -> None: ...
    def refuse_start(
        self, group: str, topic: str, partition: int, *, reason: str, detail: str, now_ms: int
    ) -> None: ...


class Refused(Exception):
    """Raised while a start is looked for; never leaves the room."""

    def __init__(self, hold: Hold) -> None:
        super().__init__(hold.detail)
        self.hold = hold
