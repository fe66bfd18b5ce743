"""Adapters to training frameworks, one module a framework; each imports its framework, this package imports none."""
