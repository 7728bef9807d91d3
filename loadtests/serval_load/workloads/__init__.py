"""Workloads: conversations of several kinds, and the times at which they begin."""
