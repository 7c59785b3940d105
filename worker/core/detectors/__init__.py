"""Detectors: each scores one event against what it has learned before."""
