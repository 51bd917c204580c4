"""A benchmark from few of its points: relatedness, selection, prediction, estimates with intervals."""
