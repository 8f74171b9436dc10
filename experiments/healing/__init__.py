"""What a start is worth to healing: the papers' conversions and ours, fine-tuned alike."""
