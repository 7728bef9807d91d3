"""How much a key may use: reserved before a request goes to the engine, settled with what it really used."""
