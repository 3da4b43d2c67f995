"""Discrete diffusion: how tokens are noised and restored, bounds on a text's probability, orders, and guidance."""
