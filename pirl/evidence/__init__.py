"""Numbers, verdicts and the folder that carries them. Read `metrics`, `criteria`, `verify`."""
