"""What runs on a developer's machine only: the DynamoDB engine, the store proxy, `make run`."""
