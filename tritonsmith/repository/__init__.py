"""The model repository: its layout, its configuration files, and how a version enters it."""
