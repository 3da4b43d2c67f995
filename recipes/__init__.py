"""The training loops, in the open, one page each, and their recipes under configs/."""
