"""Accuracy predictors that are no sums over places: a search of their additive part, exchange moves, bounds."""
