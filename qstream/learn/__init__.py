"""What learns: pure functions on arrays, state in, state out; below the modules, whose states embed what is kept here."""
