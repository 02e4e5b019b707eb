"""The stages: each module's `run` reads input folders and writes one artifact folder, in a subprocess of its own."""
