"""`python -m tests.simulation --seed N --steps M` repeats one run; `--seeds K` tries K seeds from N on."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.run import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=150)
    chosen = parser.parse_args()
    started_s, failed = time.monotonic(), 0
    sizes: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for seed in range(chosen.seed, chosen.seed + chosen.seeds):
        report = simulate(seed, chosen.steps)
        happened += report.happened
        found = report.findings
        sizes.update(
            {name: getattr(found, name) for name in ("documents", "mentions", "alerts", "deliveries", "redelivered")}
        )
        if report.problems:
            failed += 1
            sys.stdout.write(report.told() + "\n")
        elif chosen.seeds == 1:
            sys.stdout.write(f"{found}\n")
    seconds = time.monotonic() - started_s
    sys.stdout.write(
        f"{chosen.seeds} seed(s), {failed} failed, {seconds:.1f} s; {dict(sizes)}\nfaults: {dict(sorted(happened.items()))}\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
