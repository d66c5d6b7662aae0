"""What the demo declares, as a user would: each module can be planned and applied by itself."""
