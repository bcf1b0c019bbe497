"""Ways to run the same federation: direct function calls, Flower in one process, Flower on Ray."""
