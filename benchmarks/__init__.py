"""Benchmarks: ratios against a reference in the same run. Results with their commands are in RESULTS.md."""
