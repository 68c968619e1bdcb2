"""What a role says about itself: logs, metrics from one catalogue, health with reasons, the port that
serves them, and the service manager's protocol."""

from monitor.telemetry.health import Health
from monitor.telemetry.logs import configure_logs
from monitor.telemetry.metrics import CATALOGUE, Metrics
from monitor.telemetry.notify import Caretaker, Notifier, NotifyListener
from monitor.telemetry.server import TelemetryServer

__all__ = [
    "CATALOGUE",
    "Caretaker",
    "Health",
    "Metrics",
    "Notifier",
    "NotifyListener",
    "TelemetryServer",
    "configure_logs",
]
