"""The whole product on one machine, as `make demo` shows it: what goes in at Kafka comes out at the webhook."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from monitor.demo import expected
from monitor.demo.run import DemoPolicy, run_demo

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "demo.toml"


@pytest.mark.slow
def test_the_demo_fires_where_something_happened_and_loses_nothing() -> None:
    deliveries: list[tuple[str, Mapping[str, Any]]] = []
    summary = run_demo(
        CONFIG,
        on_delivery=lambda kind, data: deliveries.append((kind, data)),
        say=lambda _text: None,
        stop=threading.Event(),
        for_s=50,
        policy=DemoPolicy(hours_per_second=1.2),
    )
    truth = expected()
    assert summary.documents == truth.messages
    assert summary.dead_letters == truth.malformed
    assert summary.deliveries == len(deliveries)
    opened = [data for kind, data in deliveries if kind == "alert.opened"]
    pages = [(data["id"], *(m["id"] for m in data["details"].get("group", {}).get("members", ()))) for data in opened]
    joined = [
        member["id"]
        for kind, data in deliveries
        if kind == "alert.updated"
        for member in data["details"].get("group", {}).get("members", ())
    ]
    assert len({data["id"] for data in opened}) == len(opened), "a page opens once"
    assert len({each for page in pages for each in page} | set(joined)) == summary.alerts, (
        "every alert reaches the analyst"
    )
    for entity, direction in truth.fires.items():
        assert any(data["entity"] == entity and data["direction"] == direction for data in opened), entity
    assert all(data["evidence"] for data in opened)
