"""When to probe, and what happens with what was found."""
