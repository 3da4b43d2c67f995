"""The noising process, sampling, and how a guide steers it."""
