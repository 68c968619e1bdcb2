"""A world in one thread: one seed drives the clock, the broker, the database and the receivers through the real loops.

Every call of a port is a step at which the seed may let the process die, let others overtake it, or stop it past its
session. After a run everything is repaired and the result is compared with `monitor.chaos.oracle`.

`python -m tests.simulation --seed N --steps M` repeats a run; `make simulate` tries many seeds.
"""
