"""Anthropic's Messages API: requests become those of Chat Completions; answers are encoded in its form."""
