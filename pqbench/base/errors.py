"""Errors that are the user's to mend: printed as one sentence, never as a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something outside pqbench is wrong; the message says what it is and what to do about it."""


class NoSpaceError(UserError):
    """A disk is full: no method is to blame, so the run stops; what was finished is kept."""
