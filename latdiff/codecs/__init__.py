"""Text to latents and back."""
