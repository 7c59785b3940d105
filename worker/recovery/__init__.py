"""Where a shard is, how its state gets into the `state` topic, and how it comes back: bookkeeping over the ports."""
