"""Can that be, and how far can it be trusted? What is said of measurements, blocks and whole tables."""
