"""Labels joined to predictions, and what they say of a model: metrics with intervals, limits, concept drift."""
