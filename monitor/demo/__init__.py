"""What `tapewatch demo` shows: a sample stream of our own writing, and an alert as an analyst reads it.

The stream is seeded and knows what should come of it (`expected`); the view takes the body of a webhook and trusts
none of its text. Neither knows Kafka, the database or the roles.
"""

from monitor.demo.stream import DURATION_H, START_MS, DemoMessage, Expected, demo_messages, expected
from monitor.demo.view import render, summary_line

__all__ = ["DURATION_H", "START_MS", "DemoMessage", "Expected", "demo_messages", "expected", "render", "summary_line"]
