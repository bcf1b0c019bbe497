"""User-level differential privacy: clip, integers, noise, accounting, and the statement beside every release."""
