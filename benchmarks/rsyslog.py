"""rsyslog as another way from Kafka to Elasticsearch: the yardstick for the pace of shipping.

Its documents have nearly the shape of ours, and random ids (it does not know offsets): a repeat would be stored twice.
It commits positions by time, not when the server has acknowledged what was before them.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.shipping_records import TOPICS
from tests.integrations.debian import installed

_CONFIGURATION = """\
global(workDirectory="{folder}" maxMessageSize="1m")
module(load="imkafka")
module(load="omelasticsearch")
template(name="document" type="list" option.jsonf="off") {{
  constant(value="{{\\"@timestamp\\":\\"")
  property(name="timegenerated" dateFormat="rfc3339")
  constant(value="\\",\\"modelvigil\\":")
  property(name="msg")
  constant(value="}}")
}}
template(name="id" type="string" string="%uuid%")
"""
_STREAM = """\
input(type="imkafka" topic="{topic}" broker=["{servers}"] consumergroup="{group}" ruleset="{stream}"
      confParam=["auto.offset.reset=earliest","isolation.level=read_committed","enable.partition.eof=false"])
ruleset(name="{stream}" queue.type="linkedList" queue.size="100000" queue.dequeueBatchSize="2000") {{
  action(type="omelasticsearch" server="127.0.0.1" serverport="{port}" template="document"
         searchIndex="modelvigil-{stream}-{namespace}" searchType=""
         writeoperation="create" bulkmode="on" bulkid="id" dynbulkid="on" maxbytes="5m"
         errorfile="{folder}/{stream}.errors" action.resumeRetryCount="-1"
         queue.type="linkedList" queue.size="100000" queue.dequeueBatchSize="2000" queue.workerThreads="2")
}}
"""


@contextmanager
def rsyslog(
    program: Path | None, servers: str, port: int, namespace: str, folder: Path, say: Callable[[str], None]
) -> Iterator[Path]:
    """Let rsyslog ship alerts and metrics; yield its log. Without a program, Debian's packages are fetched."""
    folder.mkdir(parents=True)
    environment = dict(os.environ)
    command = ["rsyslogd"] if program is None else [str(program)]
    if program is None:
        packages = installed("rsyslog", "rsyslog-kafka", "rsyslog-elasticsearch", say=say)
        command = [str(packages.program("rsyslogd")), "-M", str(packages.libraries("rsyslog"))]
        environment |= packages.environment
    text = _CONFIGURATION.format(folder=folder)
    for stream, topic in TOPICS.items():
        names = {"servers": servers, "port": port, "group": f"rsyslog-{namespace}", "folder": folder}
        text += _STREAM.format(stream=stream, topic=topic, namespace=namespace, **names)
    configuration, log = folder / "rsyslog.conf", folder / "rsyslog.log"
    configuration.write_text(text, encoding="utf-8")
    command += ["-n", "-f", str(configuration), "-i", str(folder / "pid")]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            yield log
        finally:
            process.kill()
