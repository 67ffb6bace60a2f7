"""What the runtimes ask of an exported graph: precision, operators, Triton's config."""
