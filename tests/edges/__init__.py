"""Tests of edges that need no Kafka."""
