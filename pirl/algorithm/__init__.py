"""The mathematics of piRL: chains, densities, advantages, losses and the update.

Owns everything that has an equation. Refuses to know simulators, sockets and files. Read
`schedule`, `transition`, `chain`, then `pi_rl`.
"""
