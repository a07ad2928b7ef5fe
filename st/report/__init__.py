"""What a run says in the end: tables, figures, verdicts about the claim, captions."""
