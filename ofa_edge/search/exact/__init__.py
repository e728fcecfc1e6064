"""What no subnet beats, with the proof: fronts of a whole space, and mixed-integer programs for several limits."""
