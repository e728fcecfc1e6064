"""Profiling a device: what is measured, in which order, and how each result gets into the table at once."""
