"""Texts: where they come from, which to train on, and how they become ids."""
