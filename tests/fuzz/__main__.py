"""Coverage-guided fuzzing with atheris: `python -m tests.fuzz --seconds 600`. One process a target, one after the other.

An input that raises, takes longer than ten seconds or needs over a gigabyte is written to --keep and ends with exit code 1;
`python -m tests.fuzz --target T --input FILE` repeats it. All else that it needs is in a folder of its own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.corpus import SEEDS, WORDS

INPUT_SECONDS_MAX, MEMORY_MIB_MAX, INPUT_BYTES_MAX = 10, 1_024, 4_096
ROOMS = (
    "monitor.intake.decode",
    "monitor.intake.cleaning",
    "monitor.linking.linker",
    "monitor.linking.folding",
    "monitor.delivery.outbox",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--input", type=Path, help="run one input once")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where inputs that fail are kept")
    parser.add_argument("--inside", nargs=argparse.REMAINDER, default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside is not None:
        _fuzz(chosen.target, chosen.inside)
        return 0
    from tests.fuzz.targets import TARGETS

    if chosen.input is not None:
        TARGETS[chosen.target](chosen.input.read_bytes())
        return 0
    names = [chosen.target] if chosen.target else list(TARGETS)
    failed = [name for name in names if not _run(name, chosen.seconds // len(names), chosen.seed, chosen.keep)]
    return 1 if failed else 0


def _run(target: str, seconds: int, seed: int, keep: Path) -> bool:
    """libFuzzer ends its process in its own way, so that each target gets one."""
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tapewatch-fuzz-") as folder:
        corpus, words = Path(folder) / "corpus", Path(folder) / "words"
        corpus.mkdir()
        for number, blob in enumerate(SEEDS):
            (corpus / f"seed{number}").write_bytes(blob)
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz", "--target", target, "--inside"),
                *(f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={INPUT_SECONDS_MAX}"),
                *(f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-max_len={INPUT_BYTES_MAX}", f"-dict={words}"),
                *(f"-artifact_prefix={keep.resolve()}/{target}-", "-print_final_stats=1", str(corpus)),
            ],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
    log = done.stdout + done.stderr
    figures = dict(re.findall(r"stat::(\w+):\s+(\d+)", log))
    coverage = re.findall(r"cov: (\d+)", log)
    sys.stdout.write(
        f"{target}: {figures.get('number_of_executed_units', '?')} executions in {seconds} s, "
        f"coverage {coverage[-1] if coverage else '?'}, slowest {figures.get('slowest_unit_time_sec', '?')} s, "
        f"peak {figures.get('peak_rss_mb', '?')} MiB, exit {done.returncode}\n"
    )
    if done.returncode:
        sys.stdout.write(log[-6_000:] + "\n")
    sys.stdout.flush()
    return done.returncode == 0


def _fuzz(target: str, arguments: list[str]) -> None:
    """Inside the process: instrument our own rooms, then never return."""
    import atheris

    with atheris.instrument_imports(include=list(ROOMS)):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\x{c:02x}" for c in word)


if __name__ == "__main__":
    sys.exit(main())
