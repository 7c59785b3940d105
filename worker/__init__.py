"""A worker that watches machine-learning models in production through Kafka."""

__version__ = "0.1.0"
