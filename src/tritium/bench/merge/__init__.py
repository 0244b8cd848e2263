"""Whether a change may be merged: what it touches, the gates it has to pass, and the reports rendered from their verdicts."""
