"""Signatures of requests, so that a receiver can tell ours from others and from repeats.

The header `modelvigil-signature: t=1764158400,v1=5257a8...` holds the time of sending, in seconds since 1970, and the
HMAC-SHA256, in hexadecimal, of `<t>.<body>` under the shared secret (RFC 2104). A receiver

1. takes `t` and `v1` from the header and computes the same over the bytes of the body as they came;
2. compares both in constant time, and refuses what differs;
3. refuses a `t` that is more than five minutes away from its own clock: that is a repeat;
4. remembers `Idempotency-Key` at least for as long, and takes a second request with the same key for done. Each attempt
   is signed anew, so an honest retry has a new `t` and the old key.

`verify` does 1 to 3, and is what the tests hold against.
"""

import hashlib
import hmac
import re

HEADER = "modelvigil-signature"
TOLERANCE_S = 300
_FORM = re.compile(r"t=([0-9]{1,15}),v1=([0-9a-f]{64})")


def signature(secret: str, body: bytes, now_s: int) -> str:
    """Return the value of the header."""
    return f"t={now_s},v1={_digest(secret, body, now_s)}"


def verify(secret: str, header: str, body: bytes, now_s: int, tolerance_s: int = TOLERANCE_S) -> bool:
    """Tell whether a request is ours and of now."""
    match = _FORM.fullmatch(header)
    if match is None:
        return False
    sent_s = int(match[1])
    genuine = hmac.compare_digest(_digest(secret, body, sent_s), match[2])
    return genuine and abs(now_s - sent_s) <= tolerance_s


def _digest(secret: str, body: bytes, now_s: int) -> str:
    return hmac.new(secret.encode(), b"%d.%b" % (now_s, body), hashlib.sha256).hexdigest()
