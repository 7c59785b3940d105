"""What `modelvigil replay` does: a range of the input goes through the engine again, and incidents are compared.

Rule 1: nothing is joined, produced or committed. What is read of the group is how far it has come, no more.
Rule 2: the engine is that of the worker; only the order of its inputs and its ticks are made up again, from the
        timestamps of the Kafka records (`merging`), because the order that a worker took is not kept. It does without
        model maintenance, which raises no alert.
Rule 3: one shard after the other, so that memory holds one.
"""
