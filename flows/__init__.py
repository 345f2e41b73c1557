"""Prefect flows: what happens after what. No step has an order of its own."""
