"""What `calibrate`, `score`, `audit`, `compare`, `diagnose`, `ladder` and `export` do: one service a command.

A service takes resolved arguments and returns plain values; it prints nothing.
"""
