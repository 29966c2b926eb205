"""Looking at a run from outside, while it goes on or afterwards: what it leaves on disk, as pictures."""
