"""`pirl doctor`: what this machine can run."""
