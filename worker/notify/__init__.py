"""Delivery of alerts: what `modelvigil notify` does.

Each target is served by a thread of its own with a consumer group of its own, so that a receiver that is down stops
nobody but itself. `courier.py` holds the order of things; what it decides is in pure functions (`filters.py`,
`messages.py`, `rendering.py`, `retrying.py`, `signing.py`), what it does goes through `ports.py`.
"""
