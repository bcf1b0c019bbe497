"""Generators with a continuous latent space, as packs every party can verify and run."""
