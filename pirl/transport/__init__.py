"""The link between learner and actors: identity, bytes, server, client.

Speaks LeRobot's unchanged `services.proto`; knows no algorithm and no simulator. Read `identity`
first, then `wire`, `server`, `client`; `docs/envelope.md` is the format.
"""
