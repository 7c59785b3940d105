"""The core: from records to verdicts, without I/O, clock, environment, logging or global randomness."""
