"""Deterministic simulation: the production loop against a seeded model of broker, clock, network and crashes."""
