"""One small layer graph, and the files it is written to."""
