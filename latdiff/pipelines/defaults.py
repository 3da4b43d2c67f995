"""What a pipeline's calls take unless they say otherwise, for the command line to name without loading torch."""

DEFAULT_STRENGTH = 0.65  # of an edit
