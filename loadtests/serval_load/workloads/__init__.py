"""What is asked: conversations of several kinds, and when each begins."""
