"""Linking: which companies a text names, and where. Pure but for reading the watchlist; linear in the text's length."""

from monitor.linking.linker import Linker, LinkPolicy
from monitor.linking.watchlist import Company, Watchlist, load_watchlist

__all__ = ["Company", "LinkPolicy", "Linker", "Watchlist", "load_watchlist"]
