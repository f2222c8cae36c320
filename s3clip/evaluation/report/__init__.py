"""What an evaluation found, as tables, JSON, pictures and pages."""
