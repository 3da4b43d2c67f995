"""Plug-in heads: what a guide follows, fitted in seconds on labelled latents."""
