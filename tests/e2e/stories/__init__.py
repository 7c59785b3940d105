"""Fault stories: real workers, a real Kafka, something goes wrong, and an oracle that says what must have come out."""
