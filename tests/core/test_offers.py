"""Offers to the serving side: what may be served is remembered, and its models stay in the store."""

from worker.core.maintenance.offers import OFFERS_MAX, Offer, Offers


def test_what_is_in_service_outlives_any_number_of_later_offers() -> None:
    """The oldest offer that nobody serves gives way; the served one is known, and its model stays."""
    offers = Offers()
    for number in range(3 * OFFERS_MAX):
        offers.add(Offer(f"v{number}", "recent", f"m/{number}.onnx"), {"v0", None})
    assert len(offers.all) == OFFERS_MAX
    assert offers.candidate("v0") == "recent"
    assert offers.candidate("v1") is None
    latest = {f"m/{3 * OFFERS_MAX - back}.onnx" for back in range(1, 5)}
    assert offers.paths({"v0"}) == {"m/0.onnx"} | latest


def test_the_same_version_offered_again_is_one_offer() -> None:
    """A model that is advised first and proven later is remembered once, as the latest."""
    offers = Offers()
    for version in ("a", "b", "a"):
        offers.add(Offer(version, "all", f"m/{version}.onnx"), set())
    assert [each.version for each in offers.all] == ["b", "a"]
