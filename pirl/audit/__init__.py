"""From raw records to a verdict that anybody can recompute. Read `records`, `criterion`, `verify`."""
