"""Prefect tasks: one step of the gate each. A task calls the library once and adds name and time limit."""
