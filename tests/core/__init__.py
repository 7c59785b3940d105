"""Tests of the core: no I/O, no mocks."""
