"""Tritium runs ternary ("1.58-bit") language models."""

from __future__ import annotations

__version__ = "0.1.0"
