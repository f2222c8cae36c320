"""A page to edit synonyms in, and see what changes: logits, matched texts, the complex. The extra `app`."""
