"""Made-up parcels: what is known of each one when it is asked about, and whether it came late."""

from typing import Any

import numpy as np

CLASSES = ("late", "on_time")
WEATHER = ("dry", "rain", "snow")
SCHEMA: list[dict[str, Any]] = [
    {"name": "distance_km", "kind": "numeric"},
    {"name": "stops", "kind": "numeric"},
    {"name": "weekend", "kind": "boolean"},
    {"name": "weather", "kind": "categorical", "categories": list(WEATHER)},
]


def parcels(count: int, *, seed: int, winter: bool) -> tuple[list[dict[str, float | str | bool | None]], list[str]]:
    """Return features of parcels and what turned out true. In winter more are late, and snow, not distance, is why."""
    random = np.random.default_rng(seed)
    distance, stops = random.gamma(2.0, 20.0, count), random.integers(1, 30, count)
    weekend, weather = random.random(count) < 2 / 7, random.integers(0, len(WEATHER), count)
    if winter:
        strain = 2.5 * (weather - 1) + 0.5 * weekend - 0.01 * distance + 0.02 * stops + 1.0
    else:
        strain = 0.06 * (distance - 40.0) + 0.08 * (stops - 15) + 0.5 * weekend
    late = random.random(count) < 1.0 / (1.0 + np.exp(-2.0 * strain))
    columns = zip(distance.tolist(), stops.tolist(), weekend.tolist(), weather.tolist(), strict=True)
    asked: list[dict[str, float | str | bool | None]] = [
        {"distance_km": km, "stops": float(halts), "weekend": is_weekend, "weather": WEATHER[sky]}
        for km, halts, is_weekend, sky in columns
    ]
    return asked, [CLASSES[0] if is_late else CLASSES[1] for is_late in late]
