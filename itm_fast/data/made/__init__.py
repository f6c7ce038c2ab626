"""Data sets made here: scenes, sentences that speak of them, and their features in SCAN's layout."""
