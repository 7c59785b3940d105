"""A real single-node Apache Kafka on this machine, for demo, tests and benchmarks. The worker itself never needs it."""

from worker.edges.broker.jars import BrokerError
from worker.edges.broker.server import JVM_OPTIONS, LocalBroker

__all__ = ["JVM_OPTIONS", "BrokerError", "LocalBroker"]
