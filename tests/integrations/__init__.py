"""Tests with real servers beside Kafka: `make test-integrations`."""
