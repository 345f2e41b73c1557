"""Policies behind the contract, one package each; reached through `pirl.contract.registry` by name."""
