"""What pyproject.toml can't say: with TAPEWATCH_COMPILE=1 the code that every mention passes is compiled by mypyc.

It decides the same to the byte (tests/integration/test_compiled.py) and takes about three quarters of the time. Plain Python
stays the default: compiled modules need a C compiler, can't be stepped through, and hide edits to their sources.
"""

from __future__ import annotations

import os

from setuptools import setup

COMPILED = (
    *(f"monitor/alerting/{name}.py" for name in ("baselines", "budget", "cusum", "detectors")),
    *(f"monitor/loops/core/{name}.py" for name in ("hearing", "life", "memory", "partition", "signals")),
    *(
        f"monitor/windows/{name}.py"
        for name in ("chorus", "newcomers", "novelty", "shares", "sums", "tellers", "watermark")
    ),
)

# What mypyc has to see the types of, beside itself.
NEEDED = ["mypy>=2.4", "msgspec>=0.22", "pydantic>=2"]

if os.environ.get("TAPEWATCH_COMPILE") == "1":
    try:
        from mypyc.build import mypycify
    except ImportError:  # asked what a build needs
        setup(setup_requires=NEEDED)
    else:
        setup(ext_modules=mypycify([*COMPILED]))
else:
    setup()
