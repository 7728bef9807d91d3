"""Everything SGLang 0.5.23 needs to run this model on a CPU; never active on a GPU.

The launcher uses `environment` before SGLang is imported; the plugin uses `install` inside SGLang's
processes.
"""
