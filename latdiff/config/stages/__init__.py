"""One file for each stage, found by being here: its sections, and what it builds on. A new family adds a file."""
