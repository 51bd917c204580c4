"""The SynBench score: how well Gaussian classes can be told apart, in input space and from features."""
