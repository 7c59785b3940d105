"""Whether there is what is needed beside Kafka: on this machine, and where documents are shipped to."""

from collections.abc import Iterator

from worker.doctor.facts import Documents, Machine
from worker.doctor.findings import Area, Finding, error, ok, unknown, warning
from worker.edges.kafka.diagnosis import Missing
from worker.edges.kernel_cache import PLACE_NEEDED
from worker.settings import Settings

_AREA, _DOCUMENTS = Area.MACHINE, Area.ELASTICSEARCH
_WHERE = "check [elasticsearch] urls and ca_file, and that the cluster runs"
_LOOPBACK = ("127.", "::1", "localhost")


def machine_findings(settings: Settings, machine: Machine | Missing) -> Iterator[Finding]:
    """Judge ports, folders and files."""
    if isinstance(machine, Missing):
        yield unknown(_AREA, f"this machine: {machine.reason}")
        return
    count = machine.processors
    yield ok(_AREA, f"Python {machine.python}, {count} processor{'' if count == 1 else 's'}")
    if not machine.compiled_at:
        yield error(
            _AREA,
            "compiled kernels can be kept nowhere, so a worker does not start",
            PLACE_NEEDED,
        )
    yield from _port(settings, machine)
    yield from _artefacts(settings, machine)
    if machine.secrets:
        yield error(_AREA, machine.secrets, "mount the file, and let this user read it")


def _port(settings: Settings, machine: Machine) -> Iterator[Finding]:
    ops, port = settings.ops, machine.port
    if port.state == "impossible":
        yield error(_AREA, f"metrics cannot be served: {port.detail}", "change [ops] listen, port or socket")
    elif port.state == "taken" and ops.port > 0:
        yield error(
            _AREA, f"[ops] port {ops.port} is taken by another program", "take another port, or end the program"
        )
    elif port.state == "taken":
        yield warning(
            _AREA, f"{port.detail} is taken, so metrics are not served", "set [ops] port to one that is free, or to 0"
        )
    if ops.port and not ops.socket and not ops.listen.startswith(_LOOPBACK):
        yield warning(
            _AREA,
            f"[ops] listen = {ops.listen}: whoever reaches it can read model ids and figures, without a password",
            "let only Prometheus reach it (a network policy), or listen at 127.0.0.1 behind a proxy",
        )


def _artefacts(settings: Settings, machine: Machine) -> Iterator[Finding]:
    if machine.artefacts:
        yield error(
            _AREA,
            f"models cannot be kept at artefacts.url: {machine.artefacts}",
            "set artefacts.url to a folder or a bucket that this user may write to, or to nothing",
        )
    elif not machine.artefacts_tried:
        yield unknown(
            _AREA, f"{settings.artefacts.url} answers; whether it can be written to is told by the first model only"
        )


def documents_findings(documents: Documents | Missing | None) -> Iterator[Finding]:
    """Judge what `ship elasticsearch` needs; nothing where it is not set up."""
    if isinstance(documents, Missing):
        advice = "check [elasticsearch] username, password or api_key" if documents.forbidden else _WHERE
        yield error(_DOCUMENTS, f"documents cannot be shipped: {documents.reason}", advice)
    elif documents is not None and documents.templates_missing:
        missing = ", ".join(documents.templates_missing)
        yield error(_DOCUMENTS, f"templates are missing: {missing}", "run `modelvigil ship elasticsearch --setup`")
    elif documents is not None:
        yield ok(_DOCUMENTS, "the cluster answers and has the templates")
