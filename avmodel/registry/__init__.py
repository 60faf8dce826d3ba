"""Published models by name: what can be had, fetching it, and its file where a command is given the name.

No torch is imported here.
"""
