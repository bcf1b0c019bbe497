"""Many invented people, through the same client and server code that real ones use."""
