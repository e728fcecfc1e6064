"""One subnet for several devices and budgets together."""
