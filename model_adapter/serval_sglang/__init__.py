"""LongCat-Flash-Lite for SGLang: the plugin, the reference model, checkpoints and the demo model."""
