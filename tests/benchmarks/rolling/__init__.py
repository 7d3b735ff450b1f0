"""The rolling lake: bytes at a time, speed and kills."""
