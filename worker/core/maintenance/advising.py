"""What maintenance tells: advice as records, with the evidence that it rests on, and models as artefacts."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from worker.core.columns import Column, Kind
from worker.core.events import (
    ArtefactReport,
    CandidateLoss,
    ChallengerReport,
    InputFeature,
    MaintenanceEvent,
    Manifest,
    MetricChange,
    MetricValue,
    OutputTopic,
    RecalibrationReport,
    RegimeChange,
    RetrainReport,
    RollbackReport,
    SegmentGain,
    ThresholdReport,
    TrainingRange,
    TunedReport,
)
from worker.core.events.topics import Artefact
from worker.core.identity import derived_id
from worker.core.maintenance.after_promotion import Regression
from worker.core.maintenance.challenger_fits import Trained, Tuned
from worker.core.maintenance.challengers import ChallengerModel
from worker.core.maintenance.manifest import checksum, model_path
from worker.core.maintenance.onnx_models import onnx_model, published_classes
from worker.core.maintenance.pool import CHAMPION, ShadowPool
from worker.core.maintenance.recalibration_figures import compared, published
from worker.core.maintenance.segment_places import SegmentPlaces
from worker.core.maintenance.targets import Subject
from worker.core.maintenance.thresholds import Advice
from worker.core.options.maintenance import BoostedOptions, ObjectiveOptions
from worker.core.performance.intervals import Estimate
from worker.core.telling import Owner, Told

_Z95 = 1.959963984540054
MANIFEST_BYTES_MAX = 200_000
"""A longer one is told without the categories of its features; the stored one has them."""


class Moment(NamedTuple):
    """When something happened: at which record, at which event time, after how many labels."""

    offset: int
    time_ms: int
    labels: int | None
    """None for what labels have nothing to do with."""


class Ready(NamedTuple):
    """A model that is ready to be served: what it is, and what it was fitted on."""

    name: str
    model: ChallengerModel
    trained: Trained
    columns: Sequence[Column]
    """Of features, in the order of the model's."""
    seed: int


class Adviser:
    """Speaks for the maintenance of one model."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.version: str | None = None
        """Of the model that advice is about."""
        self.former_version: str | None = None

    @property
    def in_service(self) -> set[str | None]:
        """The versions that may be served: the one that is, and the one before it."""
        return {self.version, self.former_version}

    def begin_version(self, version: str | None) -> None:
        """From now on advice is about another version."""
        self.version, self.former_version = version, self.version

    def _told(self, kind: Any, moment: Moment, *parts: str, artefact: Artefact | None = None, **facts: Any) -> Told:  # noqa: ANN401 - fields of the struct below
        """Return an event to be told; `parts` set its id apart from others of the kind and offset."""
        owner = self._owner
        record = MaintenanceEvent(
            maintenance_id=derived_id(kind, owner.model_id, owner.shard, moment.offset, moment.labels or 0, *parts),
            kind=kind,
            model_id=owner.model_id,
            model_version=self.version,
            shard=owner.shard,
            offset=moment.offset,
            events=None,
            labels=moment.labels,
            timestamp_ms=moment.time_ms,
            **facts,
        )
        return Told(OutputTopic.MAINTENANCE, moment.offset, owner.model_id, record, artefact)

    # The shadow pool.

    def advice(self, pool: ShadowPool, candidate: int, stored: "Stored | None", moment: Moment) -> Told:
        """Tell whose output is best now."""
        name = pool.names[candidate]
        paired = pool.ranking.paired(0, candidate)
        better = (
            ""
            if candidate == 0
            else f": its mean loss is lower by {paired.mean:.4f} (standard error {paired.error:.4f})"
        )
        return self._told(
            "advice_changed",
            moment,
            # A refit can come with the same label as the advice.
            name if stored is None else stored.report.manifest.version,
            summary=f"answers of `{name}` are advised for {self._owner.model_id}{better}",
            challenger=_challenger(pool, name, moment.labels or 0, stored),
            artefact=None if stored is None else stored.artefact,
        )

    def ready(
        self, pool: ShadowPool, candidate: int, places: SegmentPlaces, stored: "Stored | None", moment: Moment
    ) -> Told:
        """Tell that a challenger is better, by evidence that holds however often one looks."""
        return self._trial("challenger_ready", pool, candidate, places, stored, moment)

    def withdrawn(self, pool: ShadowPool, candidate: int, places: SegmentPlaces, moment: Moment) -> Told:
        """Tell that this is no longer so."""
        return self._trial("challenger_withdrawn", pool, candidate, places, None, moment)

    def _trial(
        self,
        kind: Literal["challenger_ready", "challenger_withdrawn"],
        pool: ShadowPool,
        candidate: int,
        places: SegmentPlaces,
        stored: "Stored | None",
        moment: Moment,
    ) -> Told:
        name, gate = pool.names[candidate], pool.gate
        if gate is None:
            raise AssertionError("a pool without challengers has no trial")
        place = candidate - pool.first_challenger
        finding = gate.finding(place)
        segments = [
            SegmentGain(
                places.name(each.place),
                MetricValue(each.gain, each.gain_low, each.gain_high, each.labels),
                each.verdict,
            )
            for each in gate.segment_findings(place)
        ]
        is_number = pool.subject.task == "regression"
        report = msgspec.structs.replace(
            _challenger(pool, name, finding.labels, stored),
            gain=MetricValue(finding.gain, finding.gain_low, finding.gain_high, finding.labels),
            evidence=finding.evidence,
            segments=segments,
            metrics=pool.figures.changes(candidate, is_number=is_number),
        )
        said = "is proven better than" if kind == "challenger_ready" else "is no longer proven better than"
        gain = f"mean loss lower by {_number(finding.gain)} over {finding.labels} labels"
        summary = f"`{name}` {said} {self._owner.model_id}: {gain}"
        return self._told(
            kind, moment, name, summary=summary, challenger=report, artefact=None if stored is None else stored.artefact
        )

    def recalibration(self, pool: ShadowPool, places: SegmentPlaces, moment: Moment) -> Told:
        """Tell the coefficients that put the model right."""
        recalibration = pool.recalibration
        if recalibration is None:
            raise AssertionError("a pool without outputs has no recalibration")
        found, values = published(recalibration), places.first_values(recalibration.segments_max)
        of_segments = found.method == "segment_bias" and bool(values)
        report = RecalibrationReport(
            method=found.method,  # type: ignore[arg-type]  # one of those names: a key of METHODS
            coefficients=found.coefficients,
            p_min=found.p_min,
            classes=list(pool.subject.classes),
            segment=places.name(0).name if of_segments else None,
            segment_values=values if of_segments else {},
            windows=list(found.windows),
            first_offset=found.first_offset,
            last_offset=found.last_offset,
            metrics=[
                MetricChange(name, *(map(_value, each)))
                for name, each in compared(recalibration.task, recalibration.blocks(), _Z95).items()
            ],
        )
        said = "no recalibration is better than none" if found.method == "identity" else f"`{found.method}` is advised"
        summary = f"outputs of {self._owner.model_id}: {said}"
        # With the label that shows new classes one can be told and taken back.
        return self._told("recalibration_ready", moment, found.method, summary=summary, recalibration=report)

    def rollback(self, regression: Regression, moment: Moment) -> Told:
        """Tell that a version does not keep what it was taken for."""
        finding, against = regression.finding, regression.promise.against
        report = RollbackReport(
            former_version=self.former_version,
            against=against,
            regression=MetricValue(finding.gain, finding.gain_low, finding.gain_high, finding.labels),
            labels=finding.labels,
        )
        gain = f"mean loss higher by {_number(finding.gain)} ({against})"
        summary = f"{self._owner.model_id} {self.version} is worse than promised: {gain}"
        return self._told("rollback_advised", moment, summary=summary, rollback=report)

    def threshold(self, subject: Subject, advice: Advice, objective: ObjectiveOptions, moment: Moment) -> Told:
        """Tell a decision threshold that is better."""
        positive = subject.classes[1]
        change = MetricChange(objective.kind, _value(advice.before), _value(advice.after), _value(advice.gain))
        report = ThresholdReport(
            objective=objective.kind,
            positive=positive,
            threshold=advice.threshold,
            present=advice.present,
            value=change,
            precision=None if advice.precision is None else _value(advice.precision),
        )
        summary = (
            f"`{positive}` of {self._owner.model_id} from {advice.threshold:.3f} on instead of {advice.present:.3f}: "
            f"{objective.kind} {_number(advice.before.value)} -> {_number(advice.after.value)}"
        )
        return self._told("threshold_ready", moment, summary=summary, threshold=report)

    def tuned(self, found: Tuned, moment: Moment) -> Told:
        """Tell hyper-parameters that a search has found."""
        trials = found.outcome.trials
        loss, former = trials[found.outcome.chosen].loss, trials[0].loss
        if loss is None or former is None:
            raise AssertionError("a search has chosen what it did not judge")
        report = TunedReport(
            candidate=found.name,
            options=_options(found.options),
            former=_options(found.former),
            tried=len(trials),
            loss=loss,
            former_loss=former,
        )
        summary = f"`{found.name}` is fitted with other options from now on"
        return self._told("challenger_tuned", moment, found.name, summary=summary, tuned=report)

    # What needs no labels.

    def regime(self, change: RegimeChange, moment: Moment) -> Told:
        """Tell that a regime of the inputs is new, has vanished, or has come back."""
        said = {"new": "is new", "vanished": "has vanished", "returned": "has come back"}[change.kind]
        features = ", ".join(each.name for each in change.features)
        summary = (
            f"regime {change.regime} of the inputs {said} (share {change.share_after:.3f}); it differs by {features}"
        )
        kind = f"regime_{change.kind}"
        return self._told(kind, moment, str(change.regime), summary=summary, regime=change)

    def retrain(self, report: RetrainReport, moment: Moment) -> Told:
        """Ask for a training."""
        kinds = ", ".join(sorted({each.alert_kind for each in report.reasons}))
        summary = f"{self._owner.model_id} should be trained again: {kinds}; {report.labels_since} labels since"
        return self._told("retrain_requested", moment, summary=summary, retrain=report)

    def thinned(self, level: int, times: int, moment: Moment) -> Told:
        """Tell that fewer or more events are used, for so many times: an idle shard stays at its offset."""
        summary = f"one in {2**level} events is used for maintenance: the budget of CPU time says so"
        return self._told("maintenance_thinned", moment, str(times), summary=summary, thinning=level)

    # Artefacts.

    def store(self, pool: ShadowPool, ready: Ready, moment: Moment) -> "Stored":
        """Return a model as an artefact, and what is told of it."""
        owner, subject = self._owner, pool.subject
        content = onnx_model(ready.model, [column.name for column in ready.columns], list(subject.classes))
        digest, trained = checksum(content), ready.trained
        manifest = Manifest(
            model_id=owner.model_id,
            replaces_version=self.version,
            version=f"{ready.name}-{trained.fit}-{digest[:8]}",
            candidate=ready.name,
            task="regression" if subject.task == "regression" else "classification",
            features=[_feature(column, code) for column, code in zip(ready.columns, trained.codes, strict=False)],
            classes=published_classes(ready.model.target, list(subject.classes)),
            trained_on=[TrainingRange(owner.topic, owner.shard, trained.first, trained.last, trained.rows)],
            metrics=pool.figures.changes(pool.names.index(ready.name), is_number=subject.task == "regression"),
            seed=ready.seed,
            decided_ms=moment.time_ms,
            sha256=digest,
            bytes=len(content),
            libraries={},
        )
        path, encoded = model_path(owner.model_id, digest), msgspec.json.encode(manifest)
        told = manifest if len(encoded) <= MANIFEST_BYTES_MAX else _without_categories(manifest)
        return Stored(ArtefactReport(path, told), Artefact(path, content, encoded))


class Stored(NamedTuple):
    """A model on its way into the store."""

    report: ArtefactReport
    artefact: Artefact


def _challenger(pool: ShadowPool, name: str, labels: int, stored: Stored | None) -> ChallengerReport:
    losses = [(each, pool.ranking.loss(place)) for place, each in enumerate(pool.names)]
    return ChallengerReport(
        candidate=name,
        loss=pool.subject.loss,
        losses=[CandidateLoss(each, _known(loss.mean), _known(loss.error)) for each, loss in losses],
        labels=labels,
        artefact=None if stored is None or name == CHAMPION else stored.report,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _value(estimate: Estimate) -> MetricValue:
    return MetricValue(estimate.value, estimate.low, estimate.high, estimate.support)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _options(options: BoostedOptions) -> dict[str, float]:
    return {name: float(value) for name, value in msgspec.structs.asdict(options).items()}


def _without_categories(manifest: Manifest) -> Manifest:
    """Return what fits into a record, whatever the categories: 256 features can have 2 MB of them."""
    features = [InputFeature(each.name, each.kind) for each in manifest.features]
    return msgspec.structs.replace(manifest, features=features)


def _feature(column: Column, largest: int) -> InputFeature:
    """Return a column with the categories that the model was fitted on: any other is to be sent as 0."""
    categories = list(column.codes)[:largest] if column.kind is Kind.CATEGORICAL else []
    return InputFeature(column.name, column.kind.value, categories)
