"""Latent optimisers: from a score to the latents that reach it."""
