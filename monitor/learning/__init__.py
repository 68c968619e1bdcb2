"""Learning: labelled rows become a fine-tuned network, a network becomes figures that a person can judge.

Nothing here imports torch until a training starts: evaluating a bundle needs none.
"""
