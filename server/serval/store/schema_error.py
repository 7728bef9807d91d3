"""The error for a database with an unknown schema."""


class UnknownSchemaError(Exception):
    """The database has a revision that this version of Serval does not know."""
