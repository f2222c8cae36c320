"""Step 5: logits in, answers out."""
