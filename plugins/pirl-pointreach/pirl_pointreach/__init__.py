"""A ball on a table that must reach a disc, for pirl, as a distribution of its own. Read `env`, then `kind`."""
