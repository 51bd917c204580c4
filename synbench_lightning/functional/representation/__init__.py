"""Information, readout and spectrum: statistics of features given inputs or labels."""
