"""What a user asks: checked, placed and queued as a job."""
