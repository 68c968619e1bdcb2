"""One loop a role: each has a readable `turn()` and a `run(stop)`. Loops join rooms; they hold no policy."""
