"""What outlives the process: API keys, in SQLite or PostgreSQL."""
