"""What every module shares, pure: options, planning, what is in force, and the draft of a state."""
