"""Step 2: prompts and pixels in, embeddings out."""
