"""What a role says about itself: logs, metrics from one catalogue, health with reasons, and the port that serves them."""

from monitor.telemetry.health import Health
from monitor.telemetry.logs import configure_logs
from monitor.telemetry.metrics import CATALOGUE, Metrics
from monitor.telemetry.server import TelemetryServer

__all__ = ["CATALOGUE", "Health", "Metrics", "TelemetryServer", "configure_logs"]
