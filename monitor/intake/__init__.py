"""Intake: bytes become documents, text becomes what the model reads. Nothing unusable passes in silence."""

from monitor.intake.cleaning import CleanText, clean
from monitor.intake.decode import DecodeLimits, decode, encode

__all__ = ["CleanText", "DecodeLimits", "clean", "decode", "encode"]
