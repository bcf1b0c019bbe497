"""The rating page: one person, one browser, this machine only."""
