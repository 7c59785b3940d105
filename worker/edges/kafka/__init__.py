"""Apache Kafka through librdkafka: the group, the readers, the transactional writer, and the topics themselves.

Two consumers and one producer for each worker, beside those that a restore reads history with; why they are separate is
written at the head of each module.
"""

from worker.edges.kafka.client import ClientError, ClientLogger, FencedMemberError, KafkaConnection
from worker.edges.kafka.history import KafkaHistory, KafkaReader
from worker.edges.kafka.membership import KafkaMembership
from worker.edges.kafka.sink import METADATA_BYTES_MAX, KafkaSink
from worker.edges.kafka.source import KafkaSource

__all__ = [
    "METADATA_BYTES_MAX",
    "ClientError",
    "ClientLogger",
    "FencedMemberError",
    "KafkaConnection",
    "KafkaHistory",
    "KafkaMembership",
    "KafkaReader",
    "KafkaSink",
    "KafkaSource",
]
