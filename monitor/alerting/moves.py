"""How far a title says that shares moved. What somebody saw on the tape outweighs an opinion."""

from __future__ import annotations

import re

_SHARES = re.compile(r"\b(?:shares?|stocks?)\b")
_MOVE = re.compile(
    r"\b(?:falls?|fell|drops?|dropped|down|lower|los(?:es?|t)|slid(?:es?)?|sinks?|sank|tumbl\w+|plung\w+|plummet\w*|slump\w*|div(?:es?|ed)"
    r"|sheds?|crash\w*|crater\w*|jump(?:s|ed)?|ris(?:es?|ing)|rose|gain(?:s|ed)?|climb(?:s|ed)?|soar\w*|surg\w+|spik\w+|rall(?:y|ies|ied)"
    r"|leaps?|leapt|up|higher|pop(?:s|ped)?)"
    r"\s(?:by\s|over\s|about\s|some\s|nearly\s|almost\s|more\sthan\s|as\smuch\sas\s)?(\d{1,3}(?:\.\d+)?)\s?(?:%|pct\b|percent\b|per\scent\b)"
)


def share_move_pct(title: str) -> float:
    """The largest move of shares that a casefolded title tells, in percent, either way; 0 where it tells none.

    Only a verb of motion before the number, and shares or stocks in the title: a stake of 20% and a profit that rises by 20%
    are no moves.
    """
    if not _SHARES.search(title):
        return 0.0
    return max((float(told) for told in _MOVE.findall(title)), default=0.0)
