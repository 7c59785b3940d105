"""Apache Kafka through librdkafka: the group, the reader, the transactional writer, and the topics themselves.

Two consumers and one producer for each worker; why they are separate is written at the head of each module.
"""

from worker.edges.kafka.client import ClientError, ClientLogger, KafkaConnection
from worker.edges.kafka.membership import KafkaMembership
from worker.edges.kafka.sink import METADATA_BYTES_MAX, KafkaSink
from worker.edges.kafka.source import KafkaSource

__all__ = [
    "METADATA_BYTES_MAX",
    "ClientError",
    "ClientLogger",
    "KafkaConnection",
    "KafkaMembership",
    "KafkaSink",
    "KafkaSource",
]
