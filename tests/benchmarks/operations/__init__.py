"""Recurring training: does a warm start save tokens, and do gates tell a worse SAE from chance?"""
