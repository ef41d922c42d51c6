"""Model cards: checked when a release is published, completed with the evidence of later gates."""
