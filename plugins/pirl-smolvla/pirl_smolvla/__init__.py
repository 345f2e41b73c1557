"""LeRobot's SmolVLA behind pirl's contract, as a distribution of its own. Read `kind`, then `policy`."""
