"""Methods to compare memories with: one file a method, found by the registry."""
