"""Errors of files and batches; apart, because the API loads SQLAlchemy only where there is a database."""


class FileInUseError(Exception):
    """A batch that has not ended needs the file."""


class FullError(Exception):
    """The key's files have too many bytes, or too many of its batches have not ended."""
