"""Where a guide's gradients are taken; guidance.py says what each means."""

MODES = ("x0", "denoiser", "monte-carlo", "noisy")
