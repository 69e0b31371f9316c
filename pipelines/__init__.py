"""Prefect flows: schedules, retries and notifications around the steps of landuse."""
