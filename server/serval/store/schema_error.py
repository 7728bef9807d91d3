"""The error of a database that is not from here."""


class UnknownSchemaError(Exception):
    """It has a revision that this version of Serval does not know."""
