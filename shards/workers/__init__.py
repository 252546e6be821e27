"""Processes that do the work: children with limits, a pool on this machine, Ray."""
