"""Tests of the compiled kernels, each against an obvious twin."""
