"""Tables, selections and predictors as one page for people."""
