"""Tasks: data, metric and protocol, one file a family."""
