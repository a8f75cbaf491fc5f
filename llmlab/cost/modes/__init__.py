"""Closed forms, one file per parallelism mode: the bytes a rank hands over in a step, and what it holds at its peak."""
