"""Verdicts to incidents: life cycle, explanation, records."""
