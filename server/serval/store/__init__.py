"""Persistent storage of API keys and daily use, in SQLite or PostgreSQL."""
