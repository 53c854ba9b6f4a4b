"""What the plan decides before anything runs: budgets, calibration files, the judge."""
