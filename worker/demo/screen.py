"""What a person sees: a live screen on a terminal, plain lines anywhere else. It shows, and decides nothing."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from worker.core.events import AlertEvent, MetricValue
from worker.demo import fault as injected
from worker.demo.fault import Fault
from worker.demo.model import Deployed
from worker.demo.watch import ModelView

_ALERTS_SHOWN = 6
_BAR_CHARS = 60
_PLAIN_EVERY_S = 5.0
_STYLES = {"info": "cyan", "warning": "yellow", "critical": "bold red"}
_WATCHED_FEATURE = {
    "segments-colour": "saturation-mean",
    "segments-linear": "intensity-mean",
    "segments-shape": "vedge-mean",
}


class Now(NamedTuple):
    """One moment of the demo."""

    second: float
    doing: str
    sent: int
    rate: float
    behind: int
    dead_letters: int
    opened: int
    models: Mapping[str, ModelView]
    new_alerts: Sequence[AlertEvent]


class Plan(NamedTuple):
    """What does not change: where Kafka is, what is deployed, how long it goes on, and when the fault is."""

    kafka: str
    models: list[Deployed]
    seconds: float | None
    fault: Fault
    started_ms: int


class Screen(Protocol):
    """Shows moments."""

    def show(self, now: Now) -> None:
        """Show this one."""
        ...


@contextmanager
def opened(console: Console, plan: Plan) -> Iterator[Screen]:
    """Open the screen that fits the console."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield LiveScreen(live, plan)
    else:
        yield PlainScreen(console, plan)


class PlainScreen:
    """A line every few seconds, and one for each alert and for the fault."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._plan = plan
        self._next_s = 0.0
        self._phase = _fault_phase(plan.fault, 0.0)

    def show(self, now: Now) -> None:
        """Say what is new."""
        phase = _fault_phase(self._plan.fault, now.second)
        if phase != self._phase:
            self._phase = phase
            self._say(f"{now.second:5.1f} s  fault {phase}: {injected.DESCRIPTION}")
        for alert in now.new_alerts:
            second = _alert_second(alert, self._plan)
            self._say(f"{second:5.1f} s  alert {alert.status}, {alert.severity}: {alert.summary}")
        if now.second >= self._next_s:
            self._next_s = now.second + _PLAIN_EVERY_S
            self._say(f"{now.second:5.1f} s  {_flow(now)}; {now.doing}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveScreen:
    """The whole picture, drawn anew each time."""

    def __init__(self, live: Live, plan: Plan) -> None:
        self._live = live
        self._plan = plan
        self._alerts: deque[AlertEvent] = deque(maxlen=_ALERTS_SHOWN)

    def show(self, now: Now) -> None:
        """Draw this moment."""
        self._alerts.extend(now.new_alerts)
        parts = [self._header(now), _timeline(self._plan, now.second), self._model_table(now), self._alert_table()]
        self._live.update(Panel(Group(*parts), title="modelvigil demo", subtitle=now.doing), refresh=True)

    def _header(self, now: Now) -> RenderableType:
        length = "until Ctrl-C" if self._plan.seconds is None else f"of {self._plan.seconds:.0f} s"
        return Text(f"Kafka {self._plan.kafka}   {now.second:.1f} s {length}\n{_flow(now)}\n")

    def _model_table(self, now: Now) -> Table:
        table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
        for name in ("model", "state"):
            table.add_column(name, no_wrap=True)
        for name in ("events", "anomalies", "feature", "median", "mean", "accuracy"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("incident", no_wrap=True)
        for model in self._plan.models:
            view = now.models.get(model.model_id, ModelView())
            table.add_row(model.model_id, *_model_cells(model, view))
        return table

    def _alert_table(self) -> Table:
        table = Table(
            box=None,
            pad_edge=False,
            expand=True,
            header_style="dim",
            title="alerts, newest first",
            title_justify="left",
        )
        for name in ("at", "status", "severity", "summary"):
            table.add_column(name, no_wrap=name != "summary")
        for alert in reversed(self._alerts):
            style = "dim" if alert.status == "resolved" else _STYLES[alert.severity]
            second = f"{_alert_second(alert, self._plan):.1f} s"
            table.add_row(second, alert.status, alert.severity, Text(alert.summary), style=style)
        return table


def _model_cells(model: Deployed, view: ModelView) -> list[RenderableType]:
    feature = _WATCHED_FEATURE.get(model.model_id, model.features[0])
    column = view.column(feature)
    alert = view.open_alert
    rate = view.latest.anomaly_rate if view.latest else None
    return [
        view.latest.state.replace("_", " ") if view.latest else "not seen yet",
        f"{view.events:,}",
        "-" if rate is None else f"{rate:.2%}",
        feature.removesuffix("-mean"),
        _number(column.median if column else None),
        _number(column.mean if column else None),
        _share(view.accuracy),
        Text(alert.severity, _STYLES[alert.severity]) if alert else "-",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _share(metric: MetricValue | None) -> str:
    if metric is None or metric.value is None or metric.low is None or metric.high is None:
        return "-"
    return f"{metric.value:.0%} ({metric.low:.0%} to {metric.high:.0%})"


def _flow(now: Now) -> str:
    return (
        f"{now.sent:,} events sent ({now.rate:,.0f}/s), worker {now.behind:,} behind, "
        f"{now.opened} alerts opened, {now.dead_letters} dead letters"
    )


def _fault_phase(fault: Fault, second: float) -> str:
    if fault.during(second):
        return "begins"
    return "is over" if second >= fault.end_s else f"will begin at {fault.begin_s:.1f} s"


def _timeline(plan: Plan, second: float) -> Text:
    """Draw the time line with the fault on it. Without an end it goes a little beyond the fault."""
    whole = plan.seconds or max(2.0 * plan.fault.end_s, second)
    bar = Text()
    for place in range(_BAR_CHARS):
        moment = (place + 0.5) * whole / _BAR_CHARS
        style = "red" if plan.fault.during(moment) else "green"
        bar.append("━" if moment <= second else "─", style if moment <= second else f"dim {style}")
    on = plan.fault.during(second)
    span = f"\nfault from {plan.fault.begin_s:.1f} s to {plan.fault.end_s:.1f} s{', NOW' if on else ''}: "
    return bar.append(f"{span}{injected.DESCRIPTION}\n", "bold red" if on else "dim")


def _alert_second(alert: AlertEvent, plan: Plan) -> float:
    return (alert.timestamp_ms - plan.started_ms) / 1000
