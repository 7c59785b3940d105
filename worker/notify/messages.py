"""Bodies and headers of requests, for each kind of target."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from worker import __version__
from worker.edges.http_client import Request
from worker.notify import signing
from worker.notify.records import Alert
from worker.notify.rendering import fields, rendered
from worker.notify_settings import MASK, SECRETS, TargetSettings, endpoint

_TITLE_CHARS = 150
_BLOCK_CHARS = 3_000
_TEXT_CHARS = 30_000
"""Slack refuses more: 150 in a header, 3,000 in a section, 40,000 in all."""
_SECRET_CHARS_MIN = 4


class Webhook(msgspec.Struct, frozen=True):
    """What a target of the kind `webhook` gets."""

    target: str
    text: str
    lag_ms: int | None
    """Null: computed in time."""
    alert: msgspec.Raw
    """The record as it stands in the topic `alerts`."""


def webhook_body(target: TargetSettings, alert: Alert, runbooks_url: str) -> bytes:
    """Return the record and its text as generic JSON."""
    text = rendered(target.template, fields(alert, runbooks_url))
    return msgspec.json.encode(Webhook(target.name, text, alert.lag_ms, msgspec.Raw(alert.raw)))


def slack_body(target: TargetSettings, alert: Alert, runbooks_url: str) -> bytes:
    """Return what an incoming webhook of Slack, or of whoever speaks like it, takes."""
    named = fields(alert, runbooks_url)
    text = rendered(target.template, named, escaped)
    origin = f"incident {escaped(named['incident_id'])} · {escaped(named['timestamp'])}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(named["title"], _TITLE_CHARS), "emoji": False}},
        {"type": "section", "text": {"type": "mrkdwn", "text": _cut(text or "-", _BLOCK_CHARS)}},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": _cut(origin, _BLOCK_CHARS)}]},
    ]
    return msgspec.json.encode({"text": _cut(text, _TEXT_CHARS), "blocks": blocks})


def escaped(text: str) -> str:
    """Take from a text of somebody else the power to mention people or to link: Slack's three control characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def request(target: TargetSettings, body: bytes, key: str, now_ms: int) -> Request:
    """Return a request of this moment."""
    return Request(endpoint(target), headers(target, body, key, now_ms), body)


def headers(target: TargetSettings, body: bytes, key: str, now_ms: int) -> Mapping[str, str]:
    """Return all headers that are ours to set, and those of the target."""
    found = {
        **target.headers,
        "Content-Type": "application/json",
        "User-Agent": f"modelvigil/{__version__}",
        "Idempotency-Key": key,
    }
    if target.bearer_token:
        found["Authorization"] = f"Bearer {target.bearer_token}"
    if target.secret:
        found[signing.HEADER] = signing.signature(target.secret, body, now_ms // 1000)
    return found


def idempotency_key(target: TargetSettings, alert: Alert) -> str:
    """Return what is the same in all attempts to deliver this step to this target, and in no other request."""
    return f"{quote(alert.event.alert_id, safe='')}/{target.name}"


def redacted(text: str, target: TargetSettings) -> str:
    """Take out of a receiver's words what it should not have repeated."""
    secrets = [getattr(target, name) for name in SECRETS] + list(target.headers.values())
    for secret in secrets:
        if len(secret) >= _SECRET_CHARS_MIN:
            text = text.replace(secret, MASK)
    return text


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
