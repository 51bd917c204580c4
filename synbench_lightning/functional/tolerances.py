"""Tolerances: which variance counts as zero in statistics of float32 features."""

ROUNDING = 1e-12  # mutants: above rounding either way
"""Variance below this fraction of the mean square, or of the largest variance, is rounding error."""
