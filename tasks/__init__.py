"""What saemill does, stage by stage; nothing here knows Prefect.

    text -> tokens -> activations (Parquet) -> SAE -> scores -> report

Stages meet only in directories: each package reads the previous stage's directory and writes its own.
"""
