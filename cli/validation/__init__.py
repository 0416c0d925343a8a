"""What is looked at before, and after, a release is deployed."""
