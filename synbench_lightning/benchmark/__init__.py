"""A benchmark of labelled tasks: its evaluation, and the best of several models on it."""
