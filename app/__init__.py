"""The HTTP API: stateless, thin. It talks to DynamoDB through `broker` and to nothing else."""
