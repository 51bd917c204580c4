"""Probes of an encoder: tasks, examples, and results."""
