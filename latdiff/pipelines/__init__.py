"""diffusers pipelines: what a user samples from."""
