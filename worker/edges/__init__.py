"""The edges: each knows one outside thing and no other edge."""
