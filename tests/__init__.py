"""Tests: one package for each part, one for the laws that bind them all."""
