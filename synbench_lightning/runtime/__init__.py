"""Everything that touches modules, devices or processes."""
