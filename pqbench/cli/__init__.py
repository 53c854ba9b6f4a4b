"""The command line: one module a command, which reads options, calls a service of `commands` or `run`, and prints.

What commands share is in `shared`. Nothing here imports torch at module level.
"""
