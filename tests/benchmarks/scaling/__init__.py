"""What more workers, or more SAEs of one stream, gain."""
