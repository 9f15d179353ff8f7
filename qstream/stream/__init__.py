"""The corridor between Kafka and a module, one verb a file; `loop` shows the order of things."""
