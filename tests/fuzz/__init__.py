"""What strangers send us must not crash, hang or flood: the decoder, the cleaner, the linker, what a webhook answers.

The same targets run under Hypothesis in `make test` and under a coverage-guided fuzzer in `make fuzz`.
"""
