"""Everything that touches a person's ratings, on their own machine."""
