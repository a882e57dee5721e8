"""Models side by side on the same notes: what each makes of them, how good that is, and how sure we are."""
