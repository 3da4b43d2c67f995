"""What a pipeline's calls take unless they say otherwise, for the command line to name without loading torch."""

BATCH_SIZE = 256  # texts that are denoised, decoded and scored at once
DEFAULT_STRENGTH = 0.65  # of an edit
LEAST_KEEP = 0.01  # the share of what is drawn that may be kept
MOST_DRAWN = 10**8  # texts of a call
