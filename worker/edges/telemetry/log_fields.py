"""The fields of the periodic log line: counters, times and what is true right now. None is ever renamed."""

from collections.abc import Mapping
from enum import StrEnum

from worker.core.events import OutputTopic


class Count(StrEnum):
    """Counters, all since the start of the process. Never renamed; each name is its field in the log."""

    RECORDS_CONSUMED = "records_consumed"
    """Input records read; those of feedback once for each shard."""
    EVENTS_PROCESSED = "events_processed"
    """Records that were prediction events and are in the statistics."""
    LABELS = "labels"
    """Label records processed."""
    RECORDS_REJECTED = "records_rejected"
    """Records that went to the dead-letter topic."""
    ALERTS = "alerts"
    """Records committed to the alert topic."""
    INCIDENTS = "incidents"
    """Records committed to the topic of open incidents, tombstones among them."""
    METRICS = "metrics"
    """Records committed to the metric topic."""
    MAINTENANCE = "maintenance"
    """Records committed to the maintenance topic."""
    SCORES = "scores"
    """Verdicts on single events, where they are asked for."""
    DEAD_LETTERS = "dead_letters"
    """Records committed to the dead-letter topic."""
    OUTPUTS_LATE = "outputs_late"
    """Records among these that are marked as late: computed while the worker was lagging."""
    TRANSACTIONS_COMMITTED = "transactions_committed"
    """Transactions that became visible."""
    TRANSACTIONS_ABORTED = "transactions_aborted"
    """Transactions that had to be sent again, or whose outcome was looked up."""
    SNAPSHOTS = "snapshots"
    """Snapshots of a shard completed."""
    SNAPSHOT_BYTES = "snapshot_bytes"
    """Bytes of the records committed to the state topic."""
    RESTORES = "restores"
    """Shards restored from a snapshot or the journal and now live."""
    RESTORED_EVENTS = "restored_events"
    """Records read again to restore state; nothing was published for them."""
    RESTORES_REFUSED = "restores_refused"
    """Shards whose state is missing or foreign; a human decides."""
    DIGEST_MISMATCHES = "digest_mismatches"
    """Restores that did not lead to the state that was recorded."""
    ARTEFACTS_STORED = "artefacts_stored"
    """Models put into the artefact store."""
    ARTEFACTS_FAILED = "artefacts_failed"
    """Attempts to put one there, or to remove old ones, that failed."""


class Stage(StrEnum):
    """Where the time goes; the sum of seconds since the start of the process."""

    FETCH = "fetch"
    """Waiting for records and taking them over."""
    HANDLE = "handle"
    """Decoding, statistics, detectors, decisions, encoding; added up over the threads of the engine."""
    REFIT_WAIT = "refit_wait"
    """The part of `handle` in which events waited for a fit to be taken over."""
    MAINTENANCE = "maintenance"
    """The part of `handle` for model maintenance."""
    CHALLENGER_FITS = "challenger_fits"
    """Fits of challengers, of the CPU in other processes."""
    COMMIT = "commit"
    """Producing, committing."""
    SNAPSHOT = "snapshot"
    """Capturing and packing state."""
    RESTORE = "restore"
    """Reading state back, and records again."""


class Gauge(StrEnum):
    """What is true right now. Never renamed; each name is its field in the log, null where it is not known."""

    SHARDS_LIVE = "shards_live"
    """Shards that process their input."""
    SHARDS_RESTORING = "shards_restoring"
    """Shards whose state is being read back."""
    SHARDS_REFUSED = "shards_refused"
    """Shards that wait for a human, because their state is missing or foreign."""
    RESTORE_RECORDS_LEFT = "restore_records_left"
    """Records still to be read again before all shards are live."""
    RESTORE_SECONDS_LEFT = "restore_seconds_left"
    """The time that this will take, by the pace so far."""
    STATE_AGE_SECONDS = "state_age_seconds"
    """Age of the oldest snapshot among the live shards."""
    LAG_SECONDS = "lag_seconds"
    """How long after Kafka's timestamp records are taken: the latest one of the last turn that took any."""
    MAINTENANCE_SHARE = "maintenance_share"
    """Of the time of `handle` and fits, that for model maintenance, in the last few seconds; null: next to no work."""
    MAINTENANCE_THINNING = "maintenance_thinning"
    """Level of the shard that is thinned most: one event in 2^level is used for model maintenance."""


OUTPUT_COUNTS: Mapping[OutputTopic, Count] = {
    OutputTopic.ALERTS: Count.ALERTS,
    OutputTopic.INCIDENTS: Count.INCIDENTS,
    OutputTopic.METRICS: Count.METRICS,
    OutputTopic.MAINTENANCE: Count.MAINTENANCE,
    OutputTopic.SCORES: Count.SCORES,
    OutputTopic.DEAD_LETTERS: Count.DEAD_LETTERS,
}
