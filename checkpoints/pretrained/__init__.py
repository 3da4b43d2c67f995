"""Backbones that come with latdiff."""
