"""The SGLang plugin. SGLang calls `register`, its entry point, in each of its processes."""


def register() -> None:
    """Replace SGLang's model with Serval's, and offer its parsers to SGLang's command line and server.

    Calling it again changes nothing. Raises `SystemExit` if it fails: SGLang logs any other exception of a
    plugin and continues with its own model, whose answers are wrong.
    """
    try:
        from serval_sglang.plugin.grammar_logs import hide_grammars
        from serval_sglang.plugin.parsers import register_parsers
        from serval_sglang.plugin.registration import install

        install()
        register_parsers()
        hide_grammars()
    except Exception as error:
        raise SystemExit(f"serval: the SGLang plugin cannot take effect: {error}") from error
