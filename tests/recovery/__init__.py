"""Journal, pointer, stored state, snapshots and restores."""
