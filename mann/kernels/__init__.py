"""Fast forms of what the memories do; each has its readable reference in `mann`."""
