"""Data quality of each feature: missing, of a wrong type, unseen, out of range, stuck; and of the events as such."""
