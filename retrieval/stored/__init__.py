"""What lies in an embeddings directory, and how it is written, read and checked."""
