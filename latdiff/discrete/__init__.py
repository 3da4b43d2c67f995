"""Discrete diffusion: what is hidden of a text, bounds on its probability, orders to write it in."""
