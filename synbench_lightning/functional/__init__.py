"""Pure tensor mathematics: no Lightning, no files, no state. Derivations are in ``docs/mathematics.md``."""
