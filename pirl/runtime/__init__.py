"""Learner, actors and the processes they run in. Wiring only: the maths is in `pirl.algorithm`."""
