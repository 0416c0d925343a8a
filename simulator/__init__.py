"""The cloud provider's HTTP API, served locally, with faults that can be switched while it runs."""
