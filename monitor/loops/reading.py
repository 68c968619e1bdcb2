"""What score does with one message before the model sees it: decode, then link. Both rooms are pure; this joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from monitor.errors import Rejectable
from monitor.intake import DecodeLimits, decode
from monitor.loops.score import Message
from monitor.records import Channel, Document, LinkedEntity


class Linker(Protocol):
    """Finds the companies that a text mentions."""

    def link(
        self, text: str, *, symbols: Sequence[str] = (), channel: Channel = "news"
    ) -> tuple[LinkedEntity, ...]: ...


class DocumentReader:
    """Implements `monitor.loops.score.Reader`. `channels` says which channel each raw topic carries."""

    def __init__(self, *, linker: Linker, channels: Mapping[str, Channel], limits: DecodeLimits) -> None:
        self._linker, self._channels, self._limits = linker, channels, limits

    def read(self, message: Message) -> tuple[Document, tuple[LinkedEntity, ...]]:
        """Raises Rejectable for a message that will never be usable."""
        place = message.place
        channel = self._channels[place.topic]
        document = decode(message.value, message.headers, channel=channel, place=place, limits=self._limits)
        try:
            return document, self._linker.link(document.text, symbols=document.symbols, channel=channel)
        except Exception as err:
            # A text that breaks the linker must not stop the line; the letter keeps it for us to mend.
            raise Rejectable(f"{place}: linking failed: {type(err).__name__}: {err}", reason="not_linkable") from err
