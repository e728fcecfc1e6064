"""Searches that draw subnets: evolution as published, the table strategy, the random baseline."""
