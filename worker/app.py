"""The composition root: settings become the core, the edges and the loop. The only place that builds clients."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from worker.core.engine import Engine
from worker.core.events import OutputTopic
from worker.edges.clock import SystemClock
from worker.edges.kafka import KafkaConnection, KafkaMembership, KafkaSink, KafkaSource
from worker.edges.refit_pool import ProcessRefitPool
from worker.edges.telemetry import Telemetry, configure_logging
from worker.edges.topics import TopicPlan, check_topics
from worker.loop import Loop, LoopOptions
from worker.settings import Settings
