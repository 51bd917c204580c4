"""What counts as zero in statistics of float32 features."""

ROUNDING = 1e-12
"""Variance below this share of the mean square, or of the largest variance, is rounding and no signal."""
