"""Evaluation of a policy on a fixed schedule of episodes; every number comes from the episode records."""
