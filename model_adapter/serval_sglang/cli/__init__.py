"""Commands of ``serval`` that need the engine's packages; ``serval`` runs each as a process of its own."""
