"""What a pipeline's calls take unless they say otherwise, for the command line to name without loading torch."""

BATCH_SIZE = 256  # texts that are denoised, decoded and scored at once
DEFAULT_STRENGTH = 0.65  # of an edit
