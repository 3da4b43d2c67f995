"""What a head is fitted with unless a call says otherwise, for the command line to name without loading torch."""

DEFAULT_C = 0.01  # strong regularisation, which steers better: docs/lab/experiments.md
DEFAULT_ALPHA = 100.0  # of a head of numbers
FEATURES = ("flat", "mean", "both")  # of latents
