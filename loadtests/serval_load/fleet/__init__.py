"""Experiments with several gateways in front of several engines, as whole programs."""
