"""What the house is tested with, shipped so that users can test their own modules the same way."""
