"""What the tools of users write and read: recordings of routing into arrays, plans into the files that engines load."""
