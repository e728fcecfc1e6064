"""The truth step: a shortlist is evaluated and measured, and the choice is made on that."""
