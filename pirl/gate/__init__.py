"""The phase-2 gate: four steps that run real processes, and the verdict that follows from their records."""
