"""Scheduling of requests into the engine's slots: fair queue, slots, shedding."""
