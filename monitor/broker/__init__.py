"""The embedded broker of the demo and the tests."""

from monitor.broker.embedded import EmbeddedBroker, free_port

__all__ = ["EmbeddedBroker", "free_port"]
