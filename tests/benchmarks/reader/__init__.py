"""GB/s of training batches from disk and S3, and how long a step waits for them."""
