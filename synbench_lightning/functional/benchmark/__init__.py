"""A benchmark from few of its items: correlation of training curves, selection, prediction, intervals."""
