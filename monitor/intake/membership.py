"""Is this process a settled member of its consumer group, and does the group leave partitions to nobody?

A member that owns nothing may be right to: there are more members than partitions. Or its join hangs, or a partition was
to move when its owner died and belongs to nobody since. The group's coordinator tells them apart, so it is asked now and
then. Pure: no Kafka in here, time is an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

Partition = tuple[str, int]
_POLL_COUNTS_S = 5.0  # while the work held us up, nobody could answer us


class Standing(StrEnum):
    """How we stand in the group."""

    OWNS = "owns"
    JOINING = "joining"
    SURPLUS = "surplus"  # settled, and every partition is somebody else's
    LEFT_OUT = "left_out"  # settled, and nobody has what we could have


class Step(StrEnum):
    """What is to be done about it."""

    GO_ON = "go_on"
    LOOK = "look"  # ask the coordinator how the group stands
    ASK_AGAIN = "ask_again"  # for another round of assignments; takes nothing from anybody
    BEGIN_ANEW = "begin_anew"  # with another consumer


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipPolicy:
    """How long is too long. `joining_max_s` doubles up to eightfold as long as beginning anew does not help."""

    coordinator_max_s: float = 30.0
    joining_max_s: float = 90.0
    look_s: float = 15.0
    look_empty_s: float = 3.0
    unowned_max_s: float = 10.0
    ask_again_max_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """The group as its coordinator tells it. `assigned`: member → its partitions; None where the broker does not say."""

    settled: bool
    members: Collection[str]
    assigned: Mapping[str, Collection[Partition]] | None


class Membership:
    """Told of every poll by `seen` and of every answer by `told`; each returns what is to be done."""

    def __init__(self, policy: MembershipPolicy, *, group: str, now_s: float) -> None:
        self._policy, self._group = policy, group
        self._standing, self._stable = Standing.JOINING, False
        self._patience = 1
        self._asked = 0
        self.begun_anew(now_s, helped=True)

    @property
    def standing(self) -> Standing:
        return self._standing

    def begun_anew(self, now_s: float, *, helped: bool = False) -> None:
        """Another consumer joins from now on."""
        self._patience = 1 if helped else min(8, self._patience * 2)
        self._seen_s = now_s
        self._lost_s = self._joining_s = self._empty_s = 0.0
        self._generation: tuple[int, str] | None = None
        self._look_at_s = now_s
        self._unowned_since_s: float | None = None
        self._unowned: Collection[Partition] = ()
        if self._standing is not Standing.SURPLUS:
            self._standing = Standing.JOINING

    def seen(
        self,
        now_s: float,
        *,
        coordinator: bool,
        stable: bool,
        generation: tuple[int, str],
        owned: Collection[Partition],
    ) -> Step:
        """At a poll. `generation`: number and our name in it; `owned`: what the client holds for ours."""
        passed_s, self._seen_s = min(now_s - self._seen_s, _POLL_COUNTS_S), now_s
        if generation != self._generation:  # the group moves: whatever is given now is fresh, and nobody is stuck
            self._generation, self._look_at_s, self._unowned_since_s = generation, now_s, None
            self._joining_s = self._empty_s = 0.0
        self._stable = stable
        self._lost_s = 0.0 if coordinator else self._lost_s + passed_s
        self._joining_s = 0.0 if stable else self._joining_s + passed_s
        if owned:
            self._standing, self._empty_s = Standing.OWNS, 0.0
        elif not stable and (self._standing is not Standing.SURPLUS or self._joining_s > self._policy.look_s):
            self._standing = Standing.JOINING
        elif stable and self._standing is Standing.OWNS:
            self._standing, self._look_at_s = Standing.JOINING, now_s
        if self._lost_s >= self._policy.coordinator_max_s:
            return Step.BEGIN_ANEW
        if max(self._joining_s, self._empty_s) >= self._policy.joining_max_s * self._patience:
            return Step.BEGIN_ANEW
        if stable and self._standing is Standing.LEFT_OUT:
            self._empty_s += passed_s
        if owned and stable:
            self._patience = 1
        if stable and coordinator and now_s >= self._look_at_s:
            self._look_at_s = now_s + (self._policy.look_s if owned else self._policy.look_empty_s)
            return Step.LOOK
        return Step.GO_ON

    def told(
        self, view: GroupView, now_s: float, *, us: str, owned: Collection[Partition], partitions: Collection[Partition]
    ) -> Step:
        """At an answer. `partitions`: all that there are of our topics."""
        if not view.settled:
            return Step.GO_ON  # the next answer will tell more
        unowned = _left_over(view, us, owned, partitions)
        if unowned is None:  # not said: so many members can't all have some, or each should
            left_out = not owned and len(view.members) <= len(partitions)
        else:
            left_out = bool(unowned) or us not in view.members
        self._unowned = unowned or ()
        if not owned:
            self._standing = Standing.LEFT_OUT if left_out else Standing.SURPLUS
        if not left_out:
            self._unowned_since_s, self._asked, self._patience = None, 0, 1
            return Step.GO_ON
        if self._unowned_since_s is None:
            self._unowned_since_s = now_s
        wait_s = min(self._policy.unowned_max_s * 2**self._asked, self._policy.ask_again_max_s)
        if now_s - self._unowned_since_s < wait_s:
            return Step.GO_ON
        self._asked, self._unowned_since_s = min(self._asked + 1, 10), None
        return Step.ASK_AGAIN

    def unowned(self) -> Collection[Partition]:
        """What belonged to nobody when the coordinator told last."""
        return self._unowned

    def fault(self) -> str | None:
        """Why nothing is read, if that is not as it should be."""
        match self._standing:
            case Standing.JOINING:
                what = "did not tell yet who has them" if self._stable else "is still being joined"
                return f"no partitions: group {self._group} {what}"
            case Standing.LEFT_OUT:
                whose = ", ".join(f"{topic}/{number}" for topic, number in sorted(self._unowned)[:8])
                left = f"it leaves {whose} to nobody" if whose else "it has fewer members than partitions"
                return f"no partitions: group {self._group} gave this member none although {left}; asked again"
        return None


def _left_over(
    view: GroupView, us: str, owned: Collection[Partition], partitions: Collection[Partition]
) -> Collection[Partition] | None:
    """What no member has; ours are those that we know of: what was given and never arrived is nobody's."""
    if view.assigned is None:
        return None
    taken = {one for member, theirs in view.assigned.items() if member != us for one in theirs} | set(owned)
    return set(partitions) - taken
