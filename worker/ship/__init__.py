"""Copies of what workers publish, in Elasticsearch or OpenSearch: what `modelvigil ship elasticsearch` does.

`shipper.py` holds the order of things on Kafka's side, `settling.py` on the cluster's; what they decide is in pure
functions and small classes without I/O (`documents.py`, `answers.py`, `progress.py`).
"""
