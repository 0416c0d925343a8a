"""`sandbox-broker`: what an operator does from a shell, over the HTTP API."""
