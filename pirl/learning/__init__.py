"""The learning proof: demonstrations, supervised warm start, piRL through the real runtime, evaluation."""
