"""External memories and the methods that use them: one file a memory, usable alone."""
