"""Several members of the consumer group on one machine: what `modelvigil run --processes N` does.

Each member is a worker process of its own. This one starts them, starts again what ended, passes a stop on, and serves
their pages as one. It stays light: it loads none of what computes, and talks to no broker.

`supervising.py` holds the order of things; what it decides is in pure functions (`policy.py`, `exposition.py`).
"""
