"""`modelvigil state`: what it tells, copies, brings back and forgets, on a real Kafka."""

import json
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.e2e.harness import PARTITIONS, Deployment, parsed
from tests.malformed import GOOD
from tests.streams import batch
from worker import cli
from worker.cli_options import ExitCode, load
from worker.core import snapshot
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic
from worker.core.journal import Base, Pointer, decode_pointer, encode_pointer
from worker.core.shard import Topics
from worker.ports import Position, StateRecord
from worker.recovery.restore_job import RestoreJob, RestoreOptions
from worker.recovery.snapshot_job import SnapshotJob
from worker.recovery.stored import Key, Kind, encode_key, encode_manifest, ref_of, written
from worker.recovery.track import Track
from worker.state_admin import importing
from worker.state_admin.importing import import_state
from worker.state_admin.session import Session, StateAdminError, open_session

START_MS = 1_767_225_600_000
MODELS = 3
COMMIT_BYTES = 40_000
"""Little enough that a snapshot takes several transactions."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; get its code, what it printed, and what it said of a failure."""

    def run(deployment: Deployment, *arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.main(deployment.command(*arguments)[3:])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def deployment(kafka: str, topic_prefix: str) -> Deployment:
    """Fresh topics and a fresh group."""
    return created(Deployment(kafka, topic_prefix))


def created(deployment: Deployment) -> Deployment:
    """Create the topics of a deployment."""
    deployment.create_topics()
    return deployment


@contextmanager
def session_of(deployment: Deployment) -> Iterator[Session]:
    """Open the session that the commands of a deployment would open."""
    words = deployment.command()[3:]
    sets = [value for name, value in zip(words[::2], words[1::2], strict=True) if name == "--set"]
    with open_session(load(None, deployment.servers, deployment.group, None, sets)) as session:
        yield session


class Shard:
    """A shard that a worker would have, moved by hand."""

    def __init__(self, deployment: Deployment, session: Session, partition: int) -> None:
        self.deployment = deployment
        self.session = session
        self.partition = partition
        self.track = Track(partition, session.identity, Base(0, 0))
        self.engine = new_engine(session)
        self.engine.add_shard(partition)

    def take(self, count: int) -> None:
        """Publish so many events and process them."""
        begin = self.track.offset
        values = [event(number) for number in range(begin, begin + count)]
        self.deployment.publish((self.partition, value) for value in values)
        stamped = [(value, START_MS + begin + number) for number, value in enumerate(values)]
        self.engine.handle(batch(self.partition, begin, stamped))
        self.track.taken(InputTopic.PREDICTIONS, begin + count)

    def store(self) -> None:
        """Write a snapshot and point at it."""
        job = SnapshotJob(self.engine, self.track, int(time.time() * 1000))
        while not job.done:
            job.written(self.commit(job.next_records(COMMIT_BYTES)))
        self.commit([])

    def commit(self, records: Sequence[StateRecord]) -> Sequence[int]:
        """Commit where it is."""
        position = self.track.position(self.engine.trace(self.partition))
        with self.session.sink() as sink:
            return self.session.commit(sink, {self.partition: position}, records)

    @property
    def digest(self) -> str:
        """The checksum of all its state."""
        return self.engine.digest(self.partition)


def new_engine(session: Session) -> Engine:
    """Return an empty engine."""
    topics = session.settings.topics
    return Engine(session.settings.engine, Topics(topics.predictions, topics.labels), InlineRefits())


def event(number: int) -> bytes:
    """Return an event; several models, in event time."""
    features = {"amount": 10 + number * 37 % 101 / 50, "age": 30 + number * 13 % 29}
    changed = {"event_id": f"e{number}", "model_id": f"m{number % MODELS}", "features": features}
    return json.dumps(GOOD | changed | {"timestamp": START_MS + number}).encode()


def stored_shard(deployment: Deployment, session: Session, partition: int = 0, after: int = 0) -> Shard:
    """Return a shard with two snapshots, and so many events after the last one."""
    shard = Shard(deployment, session, partition)
    shard.take(900)
    shard.store()
    shard.take(300)
    shard.store()
    if after:
        shard.take(after)
        shard.commit([])
    return shard


class Restored(NamedTuple):
    """What a worker would begin with."""

    track: Track
    digest: str
    notes: list[str]


def restored(session: Session, partition: int) -> Restored:
    """Restore a shard as a worker would."""
    engine = new_engine(session)
    position = session.group.committed(session.settings.topics.predictions, [partition])[partition]
    job = RestoreJob(partition, position, engine, session.history, session.identity, RestoreOptions())
    end = time.monotonic() + 30
    while job.track is None:
        assert time.monotonic() < end
        job.step()
    return Restored(job.track, engine.digest(partition), job.notes)


def position_of(session: Session, partition: int) -> Position:
    """Return what is committed."""
    position = session.positions([partition])[partition]
    assert position is not None
    return position


def point(session: Session, partition: int, offset: int, metadata: str) -> None:
    """Commit any position."""
    with session.sink() as sink:
        session.commit(sink, {partition: Position(offset, metadata)}, [])


def delete_records(deployment: Deployment, topic: str, partition: int, before: int) -> None:
    """Do what retention does."""
    place = TopicPartition(deployment.topics[topic], partition, before)
    admin = AdminClient({"bootstrap.servers": deployment.servers})
    admin.delete_records([place])[place].result(15)


def shards_of(printed: str) -> list[dict[str, Any]]:
    """Return the shards of `state inspect --json`."""
    shards: list[dict[str, Any]] = json.loads(printed)["shards"]
    return shards


def problems(run: Run, deployment: Deployment, *arguments: str) -> list[str]:
    """Return the kinds of the problems of shard 0; the exit code must fit."""
    code, out, _ = run(deployment, "state", "inspect", "--json", "--partition", "0", *arguments)
    (shard,) = shards_of(out)
    assert code == (ExitCode.STATE if shard["problems"] else ExitCode.DONE)
    return [problem["kind"] for problem in shard["problems"]]


# inspect


def test_inspect_before_anything_is_there(deployment: Deployment, run: Run) -> None:
    """Nothing stored is no problem."""
    code, out, _ = run(deployment, "state", "inspect", "--json")
    assert code == ExitCode.DONE
    assert [shard["partition"] for shard in shards_of(out)] == list(range(PARTITIONS))
    assert all(shard["stored"] is None and not shard["problems"] for shard in shards_of(out))
    assert "earliest" in shards_of(out)[0]["notes"][0]
    code, out, _ = run(deployment, "state", "inspect", "--partition", "3")
    assert code == ExitCode.DONE
    assert "no members" in out.splitlines()[0]
    assert "shard 3: no state" in out
    code, _, err = run(deployment, "state", "inspect", "--partition", "4")
    assert code == ExitCode.USAGE
    assert "partitions 0 to 3" in err


def test_inspect_tells_what_is_stored(deployment: Deployment, run: Run) -> None:
    """Position, base, snapshot, journal and lag are those of the shard, in JSON and in the table."""
    with session_of(deployment) as session:
        shard = stored_shard(deployment, session, after=50)
        deployment.publish([(0, b"more")] * 7)
        code, out, _ = run(deployment, "state", "inspect", "--json", "--models", "--verify", "--partition", "0")
        assert code == ExitCode.DONE
        (told,) = shards_of(out)
        stored, pointer = told["stored"], pointer_at(session, 0)
        assert told["predictions"] == {"first": 0, "end": 1257, "position": 1250, "lag": 7}
        assert (stored["generation"], stored["digest"]) == (shard.track.generation, pointer.trace)
        assert (stored["base_offset"], stored["label_offset"]) == (1200, 0)
        assert stored["journal"]["records"] == 50
        assert stored["journal"]["entries"] == 1
        assert set(stored["belongs"].values()) == {True}
        manifest = shard.track.anchor.manifest
        assert manifest is not None
        assert stored["snapshot"]["models"] == MODELS
        assert stored["snapshot"]["bytes"] == manifest.size
        assert stored["snapshot"]["offsets"] == pointer.base.snapshot.offsets if pointer.base.snapshot else []
        assert 0 <= stored["snapshot"]["age_seconds"] < 60
        assert {(part["model_id"], part["part"]) for part in stored["snapshot"]["parts"]} == {
            (f"m{model}", part) for model in range(MODELS) for part in ("live", "fitted")
        }
        assert told["notes"] == told["problems"] == []
        assert told["feedback"] == {"first": 0, "end": 0, "position": 0, "lag": 0}
        code, out, _ = run(deployment, "state", "inspect", "--models")
    for text in ("1250", "50 records", pointer.trace, "same options", "model 'm2', fitted: ", "can go on everywhere"):
        assert text in out


def pointer_at(session: Session, partition: int) -> Pointer:
    """Return the pointer that is committed."""
    return decode_pointer(position_of(session, partition).metadata)


def test_inspect_names_the_options_that_differ(deployment: Deployment, run: Run) -> None:
    """Other options are a problem; each one that differs is named with both values."""
    with session_of(deployment) as session:
        stored_shard(deployment, session)
    others = ("--set", "engine.alert_rate=0.25", "--set", "engine.incident.quiet_events=7")
    code, out, _ = run(deployment, "state", "inspect", "--partition", "0", *others)
    assert code == ExitCode.STATE
    assert "engine.alert_rate = 0.001 (now 0.25); engine.incident.quiet_events = 100 (now 7) [other_options]" in out
    # With an empty journal, options of alerts may be any.
    code, out, _ = run(
        deployment, "state", "inspect", "--partition", "0", "--set", "engine.alerts.openings_per_day_max=3"
    )
    assert code == ExitCode.DONE
    assert "[engine.alerts] has been changed, which a worker takes over: engine.alerts.openings_per_day_max = 24" in out


def test_inspect_finds_what_keeps_a_worker_from_going_on(deployment: Deployment, run: Run) -> None:
    """Each kind of problem is told by its name; a restore would say the same."""
    with session_of(deployment) as session:
        stored_shard(deployment, session, after=50)
        position, pointer = position_of(session, 0), pointer_at(session, 0)
        assert problems(run, deployment, "--verify") == []
        point(session, 0, 1250, "somebody else's")
        assert problems(run, deployment) == ["other_format"]
        point(session, 0, 1250, "")
        assert problems(run, deployment) == ["position_missing"]
        foreign = msgspec.structs.replace(pointer.origin, cluster="other", state="recreated")
        point(session, 0, 1250, encode_pointer(msgspec.structs.replace(pointer, origin=foreign)))
        assert problems(run, deployment) == ["foreign_cluster", "topic_recreated"]
        assert pointer.base.snapshot is not None
        wrong = msgspec.structs.replace(pointer.base.snapshot, checksum="00" * 16)
        base = msgspec.structs.replace(pointer.base, snapshot=wrong)
        point(session, 0, 1250, encode_pointer(msgspec.structs.replace(pointer, base=base)))
        assert problems(run, deployment) == []  # there is the snapshot before it
        base = msgspec.structs.replace(base, previous=None, link=None)
        point(session, 0, 1250, encode_pointer(msgspec.structs.replace(pointer, base=base)))
        assert problems(run, deployment) == ["state_damaged"]
        point(session, 0, 1251, position.metadata)
        assert problems(run, deployment) == ["input_truncated", "other_format"]
        point(session, 0, 1250, encode_pointer(msgspec.structs.replace(pointer, policy="another")))
        assert problems(run, deployment) == ["other_options"]
        point(session, 0, 1250, encode_pointer(msgspec.structs.replace(pointer, feedback_offset=3)))
        assert problems(run, deployment) == ["other_format", "input_truncated"]
        point(session, 0, position.offset, position.metadata)
        delete_records(deployment, "predictions", 0, 1201)
        assert problems(run, deployment) == ["input_gone"]


def test_damaged_parts_are_found(deployment: Deployment, tmp_path: Path, run: Run) -> None:
    """A part that is not what the manifest says is found with --verify only, and never exported."""
    with session_of(deployment) as session:
        shard = stored_shard(deployment, session)
        manifest, pointer = shard.track.anchor.manifest, pointer_at(session, 0)
        assert manifest is not None
        part = manifest.models["m1"]["live"]
        models = manifest.models | {"m1": {"live": msgspec.structs.replace(part, checksum=b"another")}}
        manifest = msgspec.structs.replace(manifest, models=models)
        what = written(0, Key(deployment.group, Kind.MANIFEST, 0, 0), encode_manifest(manifest))
        ref = ref_of(what, shard.commit(what.records))
        base = msgspec.structs.replace(pointer.base, snapshot=ref, previous=None, link=None)
        point(session, 0, shard.track.offset, encode_pointer(msgspec.structs.replace(pointer, base=base)))
        assert problems(run, deployment) == []
        assert problems(run, deployment, "--verify") == ["state_damaged"]
        code, _, err = run(deployment, "state", "export", "--file", str(tmp_path / "state"))
        assert code == ExitCode.STATE
        assert "shard 0: part live of model m1 has another checksum; nothing was exported" in err
        assert list(tmp_path.iterdir()) == []


def test_inspect_finds_state_without_a_position(deployment: Deployment, run: Run) -> None:
    """A group that a tool has deleted leaves state that nothing points at."""
    with session_of(deployment) as session:
        stored_shard(deployment, session)
    admin = AdminClient({"bootstrap.servers": deployment.servers})
    admin.delete_consumer_groups([deployment.group])[deployment.group].result(15)
    assert problems(run, deployment) == ["position_missing"]


# export and import


def test_state_moves_to_another_group_and_other_topics(
    deployment: Deployment, kafka: str, topic_prefix: str, tmp_path: Path, run: Run
) -> None:
    """What is imported elsewhere is bit for bit what was exported, at a position of that place."""
    file = tmp_path / "state"
    with session_of(deployment) as session:
        shards = [stored_shard(deployment, session, partition) for partition in (0, 2)]
    code, out, _ = run(deployment, "state", "export", "--file", str(file))
    assert code == ExitCode.DONE
    assert "shard 0: 3 models, " in out
    assert "shard 1: no snapshot" in out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]
    other = created(Deployment(kafka, f"{topic_prefix}other-"))
    other.publish((partition, b"x") for partition in range(PARTITIONS) for _ in range(5))
    code, _, err = run(other, "state", "import", "--file", str(file), "--yes")
    assert code == ExitCode.STATE
    assert "shard 0: no position is committed: say --at earliest or --at latest" in err
    code, out, err = run(other, "state", "import", "--file", str(file), "--at", "latest")
    assert code == ExitCode.USAGE
    assert "shard 2: 3 models go on at offset 5, labels at 0, feedback at 0" in out
    assert "say --yes" in err
    with session_of(other) as session:
        assert session.positions([0, 2]) == {0: None, 2: None}
        code, out, _ = run(other, "state", "import", "--file", str(file), "--at", "latest", "--yes")
        assert code == ExitCode.DONE
        for shard in shards:
            there = restored(session, shard.partition)
            assert (there.digest, there.track.offset, there.track.label_offset) == (shard.digest, 5, 0)
        assert session.positions([1])[1] is None
        run(other, "state", "import", "--file", str(file), "--at", "earliest", "--yes", "--partition", "2")
        assert [restored(session, partition).track.offset for partition in (0, 2)] == [5, 0]
    assert problems(run, other, "--verify") == []


def test_an_export_says_what_is_not_in_it(deployment: Deployment, tmp_path: Path, run: Run) -> None:
    """The file holds the snapshot; what came after it is told, and is not in the state that comes back."""
    with session_of(deployment) as session:
        shard = Shard(deployment, session, 1)
        code, _, err = run(deployment, "state", "export", "--file", str(tmp_path / "none"))
        assert code == ExitCode.STATE
        assert "there is nothing to export" in err
        shard.take(600)
        shard.store()
        digest = shard.digest
        shard.take(40)
        shard.commit([])
        code, out, _ = run(deployment, "state", "export", "--file", str(tmp_path / "state"), "--partition", "1")
        assert code == ExitCode.DONE
        assert "as at offset 600, labels 0, feedback 0; 40 records after that are not in it" in out
        code, _, _ = run(deployment, "state", "import", "--file", str(tmp_path / "state"), "--yes")
        assert code == ExitCode.DONE
        there = restored(session, 1)
        assert (there.digest, there.track.offset) == (digest, 640)
    code, _, err = run(deployment, "state", "export", "--file", str(tmp_path / "nowhere" / "state"), "--partition", "1")
    assert code == ExitCode.USAGE
    assert "cannot be written: No such file" in err
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_an_import_replaces_what_is_there(
    deployment: Deployment, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old records are deleted with the new pointer, the generation goes on, and a snapshot after it works as ever.

    Parts are longer than a record here, and the snapshot longer than a transaction.
    """
    file = tmp_path / "state"
    monkeypatch.setattr(snapshot, "CHUNK_BYTES_MAX", 8_000)
    with session_of(deployment) as session:
        shard = stored_shard(deployment, session)
        run(deployment, "state", "export", "--file", str(file))
        digest = shard.digest
        shard.take(300)
        shard.store()
        generation = shard.track.generation
        msgspec.structs.force_setattr(session.settings.worker, "snapshot_commit_bytes_max", COMMIT_BYTES)
        assert len(list(import_state(session, file, [], "committed", write=True))) == 1
        there = restored(session, 0)
        assert (there.digest, there.track.offset, there.notes) == (digest, 1500, [])
        assert there.track.generation == generation + 1
        manifest = there.track.anchor.manifest
        assert manifest is not None
        chunks = [len(ref.offsets) for parts in manifest.models.values() for ref in parts.values()]
        assert max(chunks) > 2
        assert len(session.stored_keys(0)) == 1 + sum(chunks)
        shard.engine, shard.track = new_engine(session), there.track
        job = RestoreJob(0, position_of(session, 0), shard.engine, session.history, session.identity, RestoreOptions())
        while job.track is None:
            job.step()
        shard.take(30)
        shard.store()
        assert restored(session, 0).digest == shard.digest
    assert problems(run, deployment, "--verify") == []


def test_an_import_that_ends_half_way_has_changed_nothing(
    deployment: Deployment, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is written but the pointer: the old state stands. Again, and it goes through."""
    file = tmp_path / "state"
    with session_of(deployment) as session:
        shard = stored_shard(deployment, session)
        run(deployment, "state", "export", "--file", str(file))
        old_digest = shard.digest
        shard.take(300)
        shard.store()
        before = position_of(session, 0)

        def crash(*_: object) -> None:
            raise StateAdminError("the power is gone")

        with monkeypatch.context() as patch:
            patch.setattr(importing, "_prove", crash)
            code, _, err = run(deployment, "state", "import", "--file", str(file), "--yes")
        assert (code, "the power is gone" in err) == (ExitCode.STATE, True)
        assert position_of(session, 0) == before
        assert restored(session, 0)[1:] == (shard.digest, [])
        assert_compaction_keeps(deployment, shard)
        assert run(deployment, "state", "import", "--file", str(file), "--yes")[0] == ExitCode.DONE
        assert restored(session, 0).digest == old_digest


def assert_compaction_keeps(deployment: Deployment, shard: Shard) -> None:
    """No record of the newest snapshot has been overwritten under its key."""
    newest = {
        message.key(): message.offset()
        for message in deployment.read("state")
        if message.partition() == shard.partition
    }
    manifest = shard.track.anchor.manifest
    assert manifest is not None
    for model_id, parts in manifest.models.items():
        for part, ref in parts.items():
            key = encode_key(Key(deployment.group, Kind.PART, ref.slot, 0, model_id, part))
            assert newest[key] == ref.offsets[0]
    assert shard.track.base.snapshot is not None
    assert (
        newest[encode_key(Key(deployment.group, Kind.MANIFEST, manifest.slot, 0))]
        == shard.track.base.snapshot.offsets[0]
    )


def test_what_cannot_be_imported_is_one_line(deployment: Deployment, tmp_path: Path, run: Run) -> None:
    """Other options, a damaged file, another file, no file, a shard that is not in it: nothing is changed."""
    file = tmp_path / "state"
    with session_of(deployment) as session:
        stored_shard(deployment, session)
        run(deployment, "state", "export", "--file", str(file))
        before = position_of(session, 0)

        def refused(*arguments: str, path: Path = file) -> str:
            code, _, err = run(deployment, "state", "import", "--file", str(path), "--yes", *arguments)
            assert code == (ExitCode.STATE if path.exists() else ExitCode.USAGE)
            assert err.count("\n") == 1
            return err

        assert "engine.seed = 0 (now 9)" in refused("--set", "engine.seed=9")
        assert "shard 1 is not in the file: it has [0]" in refused("--partition", "1")
        assert "cannot be read: No such file" in refused(path=tmp_path / "nothing")
        whole = file.read_bytes()
        for place, name in ((0, "wrote"), (8, "format"), (20, ""), (len(whole) // 2, "damaged"), (-1, "damaged")):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            (tmp_path / "flipped").write_bytes(flipped)
            assert name in refused(path=tmp_path / "flipped")
        (tmp_path / "short").write_bytes(whole[:-1000])
        assert "cut short" in refused(path=tmp_path / "short")
        (tmp_path / "text").write_text("[engine]\nseed = 3\n")
        assert "not a file that `modelvigil state export` wrote" in refused(path=tmp_path / "text")
        delete_records(deployment, "predictions", 0, 1200)
        point(session, 0, 5, before.metadata)
        assert "position 5 is not in the topic" in refused()
        assert position_of(session, 0) == before._replace(offset=5)


# reset


def test_reset_forgets_one_shard_of_one_group(deployment: Deployment, topic_prefix: str, run: Run) -> None:
    """Its records and its pointer are gone, its position stays; all else is untouched, and it begins anew there."""
    neighbour = Deployment(deployment.servers, topic_prefix)
    neighbour.group += "-neighbour"
    with session_of(deployment) as session, session_of(neighbour) as next_door:
        shards = [stored_shard(deployment, session, 0)]
        shards.append(stored_shard(deployment, session, 1))
        theirs = Shard(neighbour, next_door, 0)
        theirs.track = Track(0, next_door.identity, Base(1200, 0))
        theirs.take(600)
        theirs.store()
        kept = next_door.stored_keys(0)
        code, out, err = run(deployment, "state", "reset", "--partition", "0")
        assert code == ExitCode.USAGE
        assert f"shard 0: {len(session.stored_keys(0))} stored records are deleted, position 1200 stays" in out
        assert "nothing has been changed: say --yes" in err
        assert restored(session, 0).digest == shards[0].digest
        code, _, _ = run(deployment, "state", "reset", "--partition", "0", "--yes")
        assert code == ExitCode.DONE
        assert session.stored_keys(0) == []
        assert position_of(session, 0) == Position(1200, "", 0)
        begins = restored(session, 0)
        assert (begins.track.offset, begins.track.anchor.ref, begins.notes) == (1200, None, [])
        assert restored(session, 1).digest == shards[1].digest
        assert next_door.stored_keys(0) == kept
        assert restored(next_door, 0).digest == theirs.digest
    assert problems(run, deployment) == []


def test_reset_without_a_position(deployment: Deployment, run: Run) -> None:
    """Where no position is committed none is made; a shard whose pointer was lost can begin anew."""
    code, out, _ = run(deployment, "state", "reset", "--yes")
    assert code == ExitCode.DONE
    assert "shard 3: 0 stored records are deleted, no position is committed, and none will be" in out
    with session_of(deployment) as session:
        assert set(session.positions(range(PARTITIONS)).values()) == {None}
        shard = stored_shard(deployment, session)
        point(session, 0, shard.track.offset, "")
        assert problems(run, deployment) == ["position_missing"]
        run(deployment, "state", "reset", "--yes")
        assert restored(session, 0).track.offset == shard.track.offset


# Workers are running.


@contextmanager
def somebody_in(deployment: Deployment, protocol: str) -> Iterator[None]:
    """Keep a member in the group."""
    options = {
        "bootstrap.servers": deployment.servers,
        "group.id": deployment.group,
        "group.protocol": protocol,
        "enable.auto.commit": False,
    }
    with closing(Consumer(options)) as member:
        member.subscribe([deployment.topics["predictions"]])
        end = time.monotonic() + 30
        while not member.assignment():
            assert time.monotonic() < end
            member.poll(0.1)
        yield


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_nothing_is_changed_while_workers_run(
    deployment: Deployment, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """The commands look for members; and should one come in after that, the broker refuses the commit."""
    file = tmp_path / "state"
    with session_of(deployment) as session:
        shard = stored_shard(deployment, session)
        run(deployment, "state", "export", "--file", str(file))
        before = position_of(session, 0)
        commands = (["reset", "--yes"], ["import", "--file", str(file), "--yes"])
        with somebody_in(deployment, protocol):
            assert run(deployment, "state", "inspect")[0] == ExitCode.DONE
            for command in commands:
                code, _, err = run(deployment, "state", *command)
                assert code == ExitCode.STATE
                assert "stop the workers first" in err
            monkeypatch.setattr(Session, "refuse_members", lambda _: None)
            for command in commands:
                code, _, err = run(deployment, "state", *command)
                assert code == ExitCode.UNREACHABLE
                assert "no transaction went through" in err
        assert position_of(session, 0) == before
        assert restored(session, 0).digest == shard.digest


def good(number: int) -> bytes:
    """Return a valid event of now."""
    changed = {"event_id": f"e{number}", "model_id": f"m{number % MODELS}", "timestamp": int(time.time() * 1000)}
    return json.dumps(GOOD | changed).encode()


def test_a_worker_goes_on_with_imported_state(deployment: Deployment, tmp_path: Path, run: Run) -> None:
    """Stopped, exported, reset, imported, started: no event is missing or doubled, and no model learns anew."""
    file = tmp_path / "state"
    deployment.publish((number % PARTITIONS, good(number)) for number in range(4000))
    with deployment.worker() as worker:
        deployment.wait_for(4000)
        worker.terminate()
        assert worker.wait(20) == 0
    code, out, _ = run(deployment, "state", "inspect", "--json", "--verify")
    assert code == ExitCode.DONE
    before = [shard["stored"] for shard in shards_of(out)]
    assert [(stored["base_offset"], stored["journal"]["records"]) for stored in before] == [(1000, 0)] * PARTITIONS
    assert run(deployment, "state", "export", "--file", str(file))[0] == ExitCode.DONE
    assert run(deployment, "state", "reset", "--yes")[0] == ExitCode.DONE
    assert run(deployment, "state", "import", "--file", str(file), "--yes")[0] == ExitCode.DONE
    code, out, _ = run(deployment, "state", "inspect", "--json", "--verify")
    after = [shard["stored"] for shard in shards_of(out)]
    assert [stored["digest"] for stored in after] == [stored["digest"] for stored in before]
    deployment.publish((number % PARTITIONS, good(number)) for number in range(4000, 8000))
    with deployment.worker() as worker:
        deployment.wait_for(8000)
        deployment.wait_for_events(8000)
        worker.terminate()
        assert worker.wait(20) == 0
    metrics = [parsed(message) for message in deployment.read("metrics")]
    assert sum(metric["events"] for metric in metrics) == 8000
    assert len({metric["metric_id"] for metric in metrics}) == len(metrics)
    learned = [parsed(message) for message in deployment.read("maintenance")]
    frozen = [record for record in learned if record["kind"] == "schema_frozen"]
    assert len(frozen) == MODELS * PARTITIONS
    code, out, _ = run(deployment, "state", "inspect", "--json")
    assert [shard["stored"]["journal"]["records"] for shard in shards_of(out)] == [0] * PARTITIONS
