"""Rectified flows that learn a preference: a toy whose samples are whole shapes made of points."""
