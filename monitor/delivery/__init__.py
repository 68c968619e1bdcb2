"""Delivery: alerts leave the house signed, at most as often as needed, and only to addresses that are meant.

Promises: one stable id per message for ever; a failing receiver delays nobody; nothing reaches the private network unless
the operator said so by name.
"""

from monitor.delivery.circuit import Circuit, Passage, after_failure, passage
from monitor.delivery.guard import Target, resolve
from monitor.delivery.outbox import Decision, DeliveryPolicy, Outcome, decide
from monitor.delivery.receivers import Receiver
from monitor.delivery.signing import sign, signed_headers
from monitor.delivery.sink import WebhookSink
from monitor.delivery.webhook import Answer, WebhookReceiver

__all__ = [
    "Answer",
    "Circuit",
    "Decision",
    "DeliveryPolicy",
    "Outcome",
    "Passage",
    "Receiver",
    "Target",
    "WebhookReceiver",
    "WebhookSink",
    "after_failure",
    "decide",
    "passage",
    "resolve",
    "sign",
    "signed_headers",
]
