"""The published contract: the files in `schemas/` are what the structs say, and the structs only ever grow."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Union

import jsonschema
import msgspec
import pytest

from worker import schemas
from worker.core.codec import Reject, dead_letter
from worker.core.events import RawBatch, RejectCode

FOLDER = Path(__file__).parents[2] / "schemas"
CONTRACT = Path(__file__).parent / "contract.txt"
TOPICS = [*schemas.STRUCTS, "dead-letters"]


@cache
def generated() -> dict[str, bytes]:
    """All files, generated once for this module."""
    return schemas.render()


def checked_in(name: str) -> Any:  # noqa: ANN401 - any JSON document
    """A file of `schemas/`, parsed."""
    return json.loads((FOLDER / name).read_bytes())


def test_checked_in_files_are_the_generated_ones() -> None:
    """`make schemas` has been run after the last change of a struct."""
    there = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in FOLDER.rglob("*.*")}
    stale = sorted(name for name in there.keys() | generated().keys() if there.get(name) != generated().get(name))
    assert not stale, f"run `make schemas` and look at the difference: {', '.join(stale)}"


@pytest.mark.parametrize("topic", TOPICS)
def test_examples_are_valid(topic: str) -> None:
    """Each schema is a valid one, and each example obeys it."""
    schema = checked_in(f"{topic}.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    examples = checked_in(f"examples/{topic}.json")
    assert examples
    for example in examples:
        jsonschema.validate(example, schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("topic", schemas.STRUCTS)
def test_examples_are_what_the_structs_decode(topic: str) -> None:
    """An example decodes to its struct and encodes to itself again: no field is misspelt or missing."""
    for example in checked_in(f"examples/{topic}.json"):
        record = msgspec.convert(example, struct_of(topic, example))
        back = msgspec.to_builtins(record)
        assert {name: back[name] for name in example} == example


def struct_of(topic: str, example: dict[str, Any]) -> Any:  # noqa: ANN401 - a struct, or a union of tagged ones
    """Return the struct of an example: by its tag, or the one that has its fields."""
    structs = schemas.STRUCTS[topic]
    if structs[0].__struct_config__.tag is not None:
        return Union[structs]  # noqa: UP007 - made of a tuple
    (struct,) = [each for each in structs if set(example) <= set(each.__struct_fields__)]
    return struct


def test_examples_tell_a_whole_incident() -> None:
    """The example of alerts is one incident from beginning to end, one about quality, one that comes from labels."""
    *alerts, quality, drop = checked_in("examples/alerts.json")
    assert quality["change"]["changed"][0]["measure"] == "median_outside"
    assert drop["performance"]["limit_kind"] == "rise"
    assert len({alert["incident_id"] for alert in alerts}) == 1
    assert [alerts[0]["status"], alerts[-1]["status"]] == ["opened", "resolved"]
    assert "critical" in {alert["severity"] for alert in alerts}


@pytest.mark.parametrize("code", RejectCode)
def test_dead_letter_headers_obey_their_schema(code: RejectCode) -> None:
    """The headers that the codec writes are those of the schema, for every reason."""
    batch = RawBatch(3, [17], [-1], [b"x"], [None], [[("own", b"header")]])
    output = dead_letter(batch, Reject(0, code, "why"), "predictions")
    headers = {name: (value or b"").decode() for name, value in output.headers}
    schema = checked_in("dead-letters.schema.json")
    jsonschema.validate(headers, schema)
    assert headers.keys() == {"own", *schema["required"]}


@pytest.mark.parametrize("topic", schemas.STRUCTS)
def test_bad_records_do_not_obey_the_schema(topic: str) -> None:
    """A schema that lets everything pass would pass the tests above."""
    schema = checked_in(f"{topic}.schema.json")
    bad_ones: list[object] = [{}, [], {"model_id": 7}]
    for bad in bad_ones:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_every_reject_code_has_a_sentence() -> None:
    """A person who finds a reason in a header can look it up."""
    reasons = checked_in("dead-letters.schema.json")["properties"]["modelvigil.reason"]["oneOf"]
    assert {reason["const"] for reason in reasons} == {*RejectCode, *schemas.DELIVERY_REASONS}
    assert all(reason["description"].endswith(".") for reason in reasons)


def test_the_contract_only_grows() -> None:
    """What has been published stays: a subscriber of today's records can read tomorrow's."""
    now = set(contract())
    published = set(CONTRACT.read_text(encoding="utf-8").splitlines())
    gone, new = sorted(published - now), sorted(now - published)
    assert not gone, "these were published and must stay:\n" + "\n".join(gone)
    assert not new, f"these are new; if they are meant, add them to {CONTRACT.name}:\n" + "\n".join(new)


def contract() -> Iterator[str]:
    """One line for each field with its type, each input field that must be there, and each code."""
    for topic in TOPICS:
        schema = schemas.schema(topic)
        definitions = dict(schema.get("$defs", {}))
        if "oneOf" in schema:
            # Of several structs the first one was there first, and alone.
            schema = definitions.pop(schemas.STRUCTS[topic][0].__name__)
        parts = {topic: schema} | {f"{topic}/{name}": part for name, part in definitions.items()}
        for name, part in parts.items():
            for field, kind in part["properties"].items():
                yield from (f"{name}.{field}: {choice}" for choice in choices(kind))
    for topic in ("predictions", "labels"):
        # A required field may not be added either: senders of today do not send it.
        yield f"{topic} requires {', '.join(sorted(schemas.schema(topic)['required']))}"


def choices(kind: dict[str, Any]) -> Iterator[str]:
    """The types, or the values of an enumeration, that a field can have."""
    for option in kind.get("anyOf", kind.get("oneOf", [kind])):
        if "enum" in option:
            yield from map(repr, option["enum"])
        elif "const" in option:
            yield repr(option["const"])
        elif "$ref" in option:
            yield option["$ref"].rpartition("/")[2]
        else:
            types = option["type"] if isinstance(option["type"], list) else [option["type"]]
            items = "|".join(choices(option["items"])) if "items" in option else ""
            yield from (f"array of {items}" if name == "array" else name for name in types)
