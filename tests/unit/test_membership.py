"""A member that owns nothing may be right to; one whose join hangs, or whose partitions belong to nobody, must act."""

from __future__ import annotations

from dataclasses import dataclass, field

from monitor.intake.membership import GroupView, Membership, MembershipPolicy, Standing, Step

ALL = {("news", 0), ("news", 1)}
POLICY = MembershipPolicy(
    coordinator_max_s=30, joining_max_s=90, look_s=15, look_empty_s=3, unowned_max_s=10, ask_again_max_s=40
)


@dataclass
class Member:
    """Polls once a second. `view`: what the coordinator answers when it is asked."""

    view: GroupView | None = None
    coordinator: bool = True
    stable: bool = False
    generation: int = 1
    owned: set[tuple[str, int]] = field(default_factory=set)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.membership = Membership(POLICY, group="g", now_s=self.now_s)

    def poll(self, polls: int, *, every_s: float = 1.0) -> list[tuple[float, Step]]:
        """What was to be done, and when."""
        steps = []
        for _ in range(polls):
            self.now_s += every_s
            step = self.membership.seen(
                self.now_s,
                coordinator=self.coordinator,
                stable=self.stable,
                generation=(self.generation, "us"),
                owned=self.owned,
            )
            if step is Step.LOOK and self.view is not None:
                step = self.membership.told(self.view, self.now_s, us="us", owned=self.owned, partitions=ALL)
            if step is Step.BEGIN_ANEW:
                self.membership.begun_anew(self.now_s)
            if step in (Step.BEGIN_ANEW, Step.ASK_AGAIN):
                steps.append((self.now_s, step))
        return steps


def settled(**assigned: set[tuple[str, int]]) -> GroupView:
    return GroupView(settled=True, members=set(assigned), assigned=assigned)


def test_a_join_that_does_not_end_is_begun_anew_after_growing_waits() -> None:
    member = Member()
    steps = member.poll(700)
    assert [at_s for at_s, _ in steps] == [90, 270, 630], "90 seconds, then 180, then 360"
    assert "still being joined" in (member.membership.fault() or "")


def test_a_group_that_moves_is_not_stuck() -> None:
    """Others come and go for minutes: each round is another generation, and what it gives is fresh."""
    member = Member()
    for _ in range(10):
        member.generation += 1
        assert member.poll(60) == []


def test_a_coordinator_that_is_not_found_is_looked_for_anew() -> None:
    assert Member(coordinator=False).poll(31) == [(30, Step.BEGIN_ANEW)]


def test_a_coordinator_that_is_lost_while_the_work_holds_us_up_costs_no_partition() -> None:
    """Ten minutes between two polls, and just then the connection is gone: nobody was asked in those ten minutes."""
    member = Member(stable=True, owned=ALL, view=settled(us=ALL))
    member.poll(10)
    member.coordinator = False
    assert member.poll(2, every_s=600) == []
    member.coordinator = True
    assert member.poll(5) == []
    assert member.membership.standing is Standing.OWNS


def test_a_surplus_member_is_idle_and_that_is_right() -> None:
    member = Member(stable=True, view=settled(a={("news", 0)}, b={("news", 1)}, us=set()))
    assert member.poll(1_000) == []
    assert member.membership.standing is Standing.SURPLUS
    assert member.membership.fault() is None
    member.stable = False
    member.poll(10)
    assert member.membership.fault() is None, "a round that others make is no news"
    member.poll(10)
    assert member.membership.fault() is not None


def test_partitions_that_belong_to_nobody_are_asked_for_ever_more_seldom() -> None:
    """By one that has none, and it says so."""
    member = Member(stable=True, view=settled(a={("news", 0)}, us=set()))
    steps = [at_s for at_s, step in member.poll(89) if step is Step.ASK_AGAIN]
    assert steps[0] <= 14
    assert 20 <= steps[1] - steps[0] <= 27
    assert member.membership.fault() == (
        "no partitions: group g gave this member none although it leaves news/1 to nobody; asked again"
    )


def test_one_that_asks_in_vain_begins_anew() -> None:
    member = Member(stable=True, view=settled(a={("news", 0)}, us=set()))
    assert 90 <= next(at_s for at_s, step in member.poll(100) if step is Step.BEGIN_ANEW) <= 95


def test_partitions_that_belong_to_nobody_are_asked_for_by_those_that_have_some() -> None:
    """They are ready and never give theirs away for it."""
    member = Member(stable=True, owned={("news", 0)}, view=settled(us={("news", 0)}))
    steps = member.poll(600)
    assert {step for _, step in steps} == {Step.ASK_AGAIN}
    assert member.membership.fault() is None


def test_what_was_given_and_never_arrived_is_nobodys() -> None:
    member = Member(stable=True, owned={("news", 0)}, view=settled(us=ALL))
    assert member.poll(60) != []


def test_what_is_on_its_way_is_not_asked_for() -> None:
    """Cooperative: whoever must give it up has it for one round more."""
    member = Member(stable=True, view=settled(a={("news", 0)}, us=set()))
    assert member.poll(8) == []
    member.generation, member.owned, member.view = 2, {("news", 1)}, settled(a={("news", 0)}, us={("news", 1)})
    assert member.poll(100) == []


def test_where_the_broker_does_not_tell_who_has_what_numbers_tell() -> None:
    def among(members: int) -> Member:
        names = {"us", *(f"m{n}" for n in range(members - 1))}
        return Member(stable=True, view=GroupView(settled=True, members=names, assigned=None))

    few, many = among(2), among(3)
    assert few.poll(60)[0][1] is Step.ASK_AGAIN
    assert many.poll(60) == []
    assert (few.membership.standing, many.membership.standing) == (Standing.LEFT_OUT, Standing.SURPLUS)


def test_a_coordinator_that_tells_nothing_leaves_the_question_open() -> None:
    member = Member(stable=True)
    assert member.poll(600) == []
    assert member.membership.standing is Standing.JOINING
    assert "did not tell yet" in (member.membership.fault() or "")
    member.view = GroupView(settled=False, members={"us"}, assigned=None)
    assert member.poll(60) == []
