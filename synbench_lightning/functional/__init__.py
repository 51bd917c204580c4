"""Pure tensor mathematics: no Lightning, no input or output, no state."""
