"""Tables of others, and ours for others; several tables merged or compared."""
