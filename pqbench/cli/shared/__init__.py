"""What several commands need: common options, lazy commands, interrupts."""
