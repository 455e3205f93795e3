"""Methods that the paper's is compared with, as their own papers have them: what `simulation.arms` tests."""
