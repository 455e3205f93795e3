"""Attacks on what a site releases as statistics, and how well they tell members from others.

A site's gate attacks its own statistics before they leave (`client.gate.audit`); `sst audit` attacks those of finished
simulations (`simulation.audit`).
"""
