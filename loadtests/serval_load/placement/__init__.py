"""Simulation of several engines behind gateways that choose a place for each request.

No engine runs and no time passes. Speeds and sizes are assumptions, so that only ratios between policies of
one run mean anything. The gateway's own rule, `serval.engine.placement`, is one of the policies.
"""
