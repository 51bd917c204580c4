"""One probe of an encoder: its tasks, the examples that it is shown, and what is found."""
