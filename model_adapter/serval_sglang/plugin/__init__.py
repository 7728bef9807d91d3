"""Entry point ``serval`` of the group ``sglang.srt.plugins``: SGLang calls :func:`register` in each of its
processes."""


def register() -> None:
    """Put Serval's model in place of SGLang's own, and offer its parsers to SGLang's command line and server.

    Calling it again changes nothing.

    Raises:
        SystemExit: it could not. SGLang logs a plugin's exceptions and goes on with its own model, whose
        answers are wrong; this is the exception that it does not catch.
    """
    try:
        from serval_sglang.plugin.parsers import register_parsers
        from serval_sglang.plugin.registration import install

        install()
        register_parsers()
    except Exception as error:
        raise SystemExit(f"serval: the SGLang plugin cannot take effect: {error}") from error
