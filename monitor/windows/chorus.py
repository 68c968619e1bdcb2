"""A brigade: many accounts that nobody has heard of, all at once, all saying nearly the same, and nobody quoting anybody.

    accounts   ·  ·  ·· ····················· ··· ·
                      │ the 40th echo of a newcomer within 4 h, and echoes are much of what is said
                      └ it is a brigade since its first echo; from here on its echoes have no voice

A post is an echo when it copies another, or so many others have half of its word pairs, its author was not heard of in the
horizon before, and it does not forward anybody by name: retweets are one voice's reach, and are collapsed as copies.
What is told is a count and not a verdict on intent: posts, accounts, and the voices that they were worth.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from monitor.windows.records import Brigade

_FORWARDS = ("RT @", "RT:", "MT @", "“@", '"@', "via @")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChorusPolicy:
    """`accounts_min` newcomers that echo within `window_ms`, at least `share_min` of all posts; echo: see `crowd_min`.

    Two fifths and not half: a brigade's own first posts echo nobody yet.
    """

    window_ms: int = 4 * 3_600_000
    accounts_min: int = 40
    share_min: float = 0.4
    crowd_min: int = 3


class Chorus:
    """Listens to one entity in one channel. Posts must come in event-time order."""

    __slots__ = ("_echoes", "_policy", "_posts", "brigade")

    def __init__(self, policy: ChorusPolicy) -> None:
        self._policy = policy
        self._posts: deque[tuple[int, bool, int, object]] = deque()
        self._echoes = 0
        self.brigade: Brigade | None = None

    def is_echo(self, text: str, *, copy: bool, crowd: int, spoken: int) -> bool:
        return not spoken and (copy or crowd >= self._policy.crowd_min) and not text.startswith(_FORWARDS)

    def hear(self, at_ms: int, echo: bool, voices_u: int, token: object) -> Brigade | None:
        """Take one post of a named author; returns the brigade that it belongs to, if there is one."""
        posts = self._posts
        while posts and posts[0][0] < at_ms - self._policy.window_ms:
            self._echoes -= posts.popleft()[1]
        posts.append((at_ms, echo, voices_u, token))
        self._echoes += echo
        on = self.brigade
        if on is not None and self._echoes * 2 < self._policy.accounts_min:
            on = self.brigade = None
        if not echo:
            return None
        if on is not None:
            self.brigade = on._replace(last_ms=at_ms, accounts=on.accounts + 1, voices_u=on.voices_u + voices_u)
        elif self._echoes >= max(self._policy.accounts_min, self._policy.share_min * len(posts)):
            echoes = [post for post in posts if post[1]]
            self.brigade = Brigade(
                since_ms=echoes[0][0],
                last_ms=at_ms,
                accounts=len(echoes),
                voices_u=sum(post[2] for post in echoes),
                example=echoes[0][3],
            )
        return self.brigade
