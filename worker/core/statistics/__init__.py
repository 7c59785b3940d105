"""Mergeable statistics: the merge of parts equals one pass over the whole."""
