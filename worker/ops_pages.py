"""What `ship` and `notify` tell operators over HTTP: `/metrics`, `/healthz`, `/readyz`, and where these are served."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from worker.edges.ops_http import Answer, OpsServer, OpsServerError, Page, json_answer
from worker.ops_settings import OpsSettings
from worker.settings import SettingsError

NOWHERE = OpsSettings(port=0)


def pages_of(
    registry: CollectorRegistry, silent_s: Callable[[], float], silent_s_max: float, trouble: Callable[[], str]
) -> dict[str, Page]:
    """Return the pages.

    Args:
        registry: what `/metrics` shows.
        silent_s: how long the loop has not been heard of.
        silent_s_max: from then on `/healthz` is 503: the process hangs.
        trouble: why it does not work, empty if it does: `/readyz` is 503 with this reason.
    """

    def alive() -> Answer:
        age_s = silent_s()
        return json_answer(200 if age_s < silent_s_max else 503, heartbeat_age_seconds=round(age_s, 3))

    def ready() -> Answer:
        reason = trouble()
        return json_answer(503, reason=reason) if reason else json_answer(200, reason="ready")

    return {
        "/metrics": lambda: Answer(200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        "/healthz": alive,
        "/readyz": ready,
    }


@contextmanager
def serving(
    where: OpsSettings,
    pages: Mapping[str, Page],
    log: Any,  # noqa: ANN401 - structlog's
    *,
    table: str,
    default_port: int,
) -> Iterator[OpsServer]:
    """Serve the pages.

    Args:
        where: with port -1 for the default one.
        pages: what there is, by path.
        log: where it is told.
        table: of the settings that have `ops_listen` and so on, for messages.
        default_port: what -1 stands for.

    Raises:
        SettingsError: the address cannot be used.
    """
    with ExitStack() as stack:
        try:
            server = OpsServer(where, pages, log.warning, default_port=default_port, prefix=f"{table}.ops_")
            stack.enter_context(server)
        except OpsServerError as error:
            raise SettingsError(str(error)) from None
        yield server
