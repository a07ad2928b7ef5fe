"""What a run says in the end: tables, figures, verdicts about the claim, captions.

May import core and config, and needs no torch. Imported by phases and the notebook.
"""
