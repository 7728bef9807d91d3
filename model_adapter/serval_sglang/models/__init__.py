"""Models found by SGLang's registry, which scans this package: every module must define `EntryClass`, and
there must be no subpackages."""
