"""Stubs generated from protos/ by tools/stubs.py. Committed; do not edit."""
