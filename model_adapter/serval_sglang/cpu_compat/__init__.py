"""What SGLang 0.5.23 needs to run this model on a CPU, in one place and never active on a GPU.

``environment`` is used by the launcher before SGLang is imported; ``install`` by the plugin inside SGLang's
processes.
"""
