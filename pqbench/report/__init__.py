"""How results look: tables, figures, pages. `write` makes the files of a run.

Nothing here runs a model or writes a record.
"""
