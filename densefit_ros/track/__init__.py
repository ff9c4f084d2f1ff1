"""Identity over time: motion, shape belief, association, birth and loss.  Pure functions over frozen states."""
