"""Tools for fault tests: a cluster of three nodes, a proxy that breaks the network, a worker that dies on cue."""
