"""Measuring: what a machine is, and what runs cost on it."""
