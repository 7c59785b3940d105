"""Compiled free functions over arrays: no classes, no options."""
