"""The SynBench score: how well two Gaussian classes can be separated, in input space and from features."""
