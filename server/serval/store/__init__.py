"""Persistent storage of API keys, daily use and responses, in SQLite or PostgreSQL."""
