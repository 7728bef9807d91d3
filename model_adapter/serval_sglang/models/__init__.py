"""Scanned by SGLang's model registry: every module here defines `EntryClass`, and there are no
subpackages."""
