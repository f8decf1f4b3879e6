"""What the tests share. A component added to the registry, with its YAML, is picked up here and so by the tests."""
