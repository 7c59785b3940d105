"""Tests of the examples, without Kafka; the loop closed on a real one is in tests/e2e."""
