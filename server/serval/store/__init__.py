"""Persistent storage of API keys, daily use, usage and responses, in SQLite or PostgreSQL."""
