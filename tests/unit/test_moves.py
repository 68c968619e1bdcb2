"""What a title says of a share's move."""

from __future__ import annotations

import pytest

from monitor.alerting import share_move_pct


@pytest.mark.parametrize(
    ("title", "pct"),
    [
        ("Acme shares spike 18% on forecast", 18.0),
        ("Stocks extend losses, Acme falls 50 pct", 50.0),
        ("Acme stock is down more than 12.5 percent", 12.5),
        ("Acme shares rise 2%, Bolt's fall 31%", 31.0),
        ("Acme buys 20% of the shares of Bolt", 0.0),
        ("Acme's profit rises 35%", 0.0),
        ("Acme shares rise 12%", 12.0),
        ("Acme shares fall", 0.0),
    ],
)
def test_only_a_verb_of_motion_and_shares_make_a_move(title: str, pct: float) -> None:
    """A stake is no move, and neither is a profit; without a number nothing is said of how far."""
    assert share_move_pct(title.casefold()) == pct
