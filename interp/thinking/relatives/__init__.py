"""Other measures of what a step does, with the same list of steps, to compare with the score."""
