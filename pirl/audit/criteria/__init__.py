"""The criteria, one decorated function each; `pirl.audit.policy` has them all in the order of the report."""
