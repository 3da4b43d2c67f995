"""Every figure of texts and checkpoints: metrics, judges, rows, the report."""
