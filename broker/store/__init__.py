"""The door to DynamoDB. Only this package knows item shapes; only `table` spells keys."""
