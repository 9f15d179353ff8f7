"""The house's own servers: a Kafka broker and a Redis that start with the program and end with it."""
