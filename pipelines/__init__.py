"""Prefect flows: when things run, what is tried again, and what is told to whom. What they run is landuse."""
