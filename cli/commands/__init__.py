"""Commands: parse, call the API, show what it said."""
