"""Foundations that every other module may use."""
