"""Foundations that all other modules may use."""
