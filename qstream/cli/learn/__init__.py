"""`qstream learn`: what learners know, how they are steered, and what their decisions were worth."""
